"""The operator's night, by the command line only: every command of the page, over PostgreSQL, Valkey and two nodes."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests import servers
from tests.e2e.services import started
from tests.e2e.transcripts import Shell, Shown, steps_of

PAGE = "docs/how-to/operators-night.md"


def test_the_night(tmp_path: Path, postgres_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    discounts = str(tmp_path / "discounts.json")
    monkeypatch.setenv("SHOP_DISCOUNTS", discounts)
    stores = {"levels__redis__url": valkey_url, "levels__database__url": postgres_url}
    ports = {port: str(servers.free_port()) for port in ("8081", "8082")}
    shown = Shown()
    with ExitStack() as stack:
        shell = stack.enter_context(closing(Shell()))
        for step in steps_of(PAGE):
            command = re.sub("808[12]", lambda found: ports[found[0]], step.command).replace("/tmp/discounts.json", discounts)
            step.output = [re.sub("808[12]", lambda found: ports[found[0]], line) for line in step.output]
            if command.startswith("cachesvc serve "):
                options = command.replace("var/", f"{tmp_path}/").split()[2:]
                service, _ = stack.enter_context(started(tmp_path, *options, **stores))
                shown.check(step, service.lines)
            else:
                shown.check(step, shell.run(command))
    asked = " ".join(step.command for step in steps_of(PAGE))
    for needed in ("query", "--dry-run", "--cascade --wait", "nodes", "explain", "warm", "stats"):
        assert f"{needed} " in f"{asked} "
