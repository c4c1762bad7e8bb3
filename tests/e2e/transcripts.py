"""Pages whose commands are executed: each prints what is shown.

`…` stands for anything within a line, alone on a line for any lines. Versions differ at every run: one that is shown twice
must be the same both times.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes.services import ROOT
from tests.servers import process_environment

END = "@end-of-output@"
BIN = Path(sys.executable).parent
VERSION = re.compile(r"\d{16}")
SOME_LINES = r"(?:.*\n)*?.*"


@dataclass(slots=True)
class Step:
    """A command and the lines that it is said to print; `^C` stops the service."""

    command: str
    output: list[str] = field(default_factory=list)


def steps_of(page: str) -> list[Step]:
    """The steps that a page shows in its blocks of `console`."""
    steps: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:]))
            elif line == "^C":
                steps.append(Step(line))
            else:
                steps[-1].output.append(line)
    return steps


class Shown:
    """Compares what is printed with what is shown, and remembers which version stands for which."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def real(self, version: str) -> str:
        """The version that one on the page stands for."""
        return self._real.get(version, version)

    def check(self, step: Step, printed: list[str]) -> None:
        shown, real = ("\n".join(line.rstrip() for line in lines).rstrip() for lines in (step.output, printed))
        pattern = "\n".join(SOME_LINES if line == "…" else _pattern(line) for line in shown.split("\n"))
        found = re.fullmatch(pattern, real)
        assert found, f"$ {step.command}\nshown:\n{shown}\nprinted:\n{real}"
        for name, version in zip(VERSION.findall(shown), found.groups(), strict=True):
            assert self._real.setdefault(name, version) == version, f"$ {step.command}\n{name} was {self._real[name]}"


def _pattern(line: str) -> str:
    return VERSION.sub(r"(\\d{16})", re.escape(line).replace("…", ".*"))


class Shell:
    """A shell that lives over the whole page, as its variables do; the commands of the project are at hand."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            cwd=ROOT,
            env=process_environment() | {"no_proxy": "127.0.0.1", "PATH": f"{BIN}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho; echo {END}\n")
        self._process.stdin.flush()
        return "".join(iter(self._process.stdout.readline, f"{END}\n")).splitlines()

    def close(self) -> None:
        self._process.communicate()
