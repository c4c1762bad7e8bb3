"""The page on HTTP: every command of it, against a service over SQLite."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.e2e.services import NO_REDIS, started
from tests.e2e.transcripts import Shell, Shown, steps_of


def test_the_page(tmp_path: Path) -> None:
    shown = Shown()
    with started(tmp_path, **NO_REDIS) as (_, url), closing(Shell()) as shell:
        for step in steps_of("docs/how-to/http.md"):
            shown.check(step, shell.run(step.command.replace("http://127.0.0.1:8080", url)))
