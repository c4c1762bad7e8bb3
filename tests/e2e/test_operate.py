"""The operator's requests: every command of the page, over PostgreSQL, Valkey and two nodes."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests import servers
from tests.e2e.services import started
from tests.e2e.transcripts import Shell, Shown, steps_of

PAGE = "docs/how-to/operate.md"


def test_the_page(tmp_path: Path, postgres_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DISCOUNTS", str(tmp_path / "discounts.json"))
    stores = {"levels__redis__url": valkey_url, "levels__database__url": postgres_url}
    ports = {port: str(servers.free_port()) for port in ("8081", "8082")}
    shown = Shown()
    with ExitStack() as stack:
        shell = stack.enter_context(closing(Shell()))
        for step in steps_of(PAGE):
            # what the first answers name is what later commands ask for
            command = re.sub(r"\d{16}", lambda found: shown.real(found[0]), step.command)
            command = re.sub("808[12]", lambda found: ports[found[0]], command).replace("/tmp/", f"{tmp_path}/")
            step.output = [re.sub("808[12](?!\\d)", lambda found: ports[found[0]], line) for line in step.output]
            if command.startswith("cachesvc serve "):
                service, _ = stack.enter_context(
                    started(tmp_path, *command.replace("var/", f"{tmp_path}/").split()[2:], **stores)
                )
                shown.check(step, service.lines)
            else:
                shown.check(step, shell.run(command))
