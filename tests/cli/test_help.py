"""Help, completion and what is loaded for them: nothing that takes time."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from cachesvc.cli.exits import Exit
from cachesvc.cli.main import COMMANDS
from tests.cli.console import cachesvc, environment
from tests.processes.services import ROOT

HEAVY = ("httpx", "httpcore", "rich", "pydantic", "orjson", "uvicorn", "fastapi", "starlette", "sqlalchemy", "redis", "asyncio")


def test_help_names_every_command_and_exit_code() -> None:
    ran = cachesvc("--help")
    assert ran.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in ran.text
    for code in Exit:
        assert f"\n    {code.value} " in ran.text or code in (Exit.FAULT, Exit.PIPE)
    for name in COMMANDS:
        assert "..." not in next(line for line in ran.text.splitlines() if line.startswith(f"  {name} "))


def test_help_loads_nothing_that_it_does_not_need() -> None:
    for arguments, loaded in ((["--help"], b""), (["--version"], b""), (["invalidate", "--help"], b"pydantic")):  # typer's own
        code = (
            "import sys; from cachesvc.cli.main import main; sys.argv[1:] = sys.orig_argv[3:]\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
        )
        command = (sys.executable, "-c", code, *arguments)
        ran = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True)
        assert ran.stderr == loaded + b"\n", arguments


def test_a_command_tells_its_options() -> None:
    ran = cachesvc("invalidate", "--help")
    for option in ("--url", "CACHESVC_URL", "--token", "CACHESVC_TOKEN", "--json", "--yes", "--dry-run", "--cascade"):
        assert option in ran.text


def test_an_interrupt_before_the_commands_are_there_is_silent() -> None:
    code = (
        "import os, signal, sys\nclass First:\n"
        "    def find_spec(self, name, *_): name == 'cachesvc.cli.main' and os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, First())\nfrom cachesvc.cli.entry import main\nmain()"
    )
    ran = subprocess.run((sys.executable, "-c", code), cwd=ROOT, env=environment(), capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize(
    "command",
    [
        ("set", "k", "1", "--ttl", "nan"),
        ("set", "k", "1", "--ttl", "a"),
        ("warm", "k", "--rate", "inf"),
        ("stats", "--watch", "--interval", "nan"),
    ],
)
def test_what_is_no_number_is_refused(command: tuple[str, ...]) -> None:
    ran = cachesvc(*command)
    assert ran.code == Exit.USAGE, ran
    assert f"{command[-1]} is not a number" in ran.err


def test_completion() -> None:
    for shell, said in (("bash", "complete -o default -F"), ("zsh", "compdef"), ("fish", "complete --command cachesvc")):
        ran = cachesvc("--show-completion", shell, SHELL=f"/bin/{shell}", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
        assert said in ran.text, (shell, ran)
    offered = cachesvc(_CACHESVC_COMPLETE="complete_bash", COMP_WORDS="cachesvc s", COMP_CWORD="1")
    assert offered.text.split() == ["serve", "set", "snapshot", "stats", "sync"]
    offered = cachesvc(_CACHESVC_COMPLETE="complete_bash", COMP_WORDS="cachesvc invalidate --c", COMP_CWORD="2")
    assert offered.text.split() == ["--cascade"]


def test_without_the_extra_it_says_what_is_missing() -> None:
    code = "import sys; sys.modules['httpx'] = None; sys.argv[1:] = ['keys']\nfrom cachesvc.cli.main import main\nmain()"
    ran = subprocess.run((sys.executable, "-c", code), cwd=ROOT, env=environment(), capture_output=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.decode() == "cachesvc: the operator commands need httpx: pip install 'cachesvc[client]'\n"
