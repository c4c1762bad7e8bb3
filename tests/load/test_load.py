"""`python -m tests.load` from outside: it passes an honest service and fails one that is not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.load.fake import Fault, serving

ROOT = Path(__file__).parents[2]


def loaded(url: str, report: Path) -> subprocess.CompletedProcess[str]:
    small = ("--users", "6", "--seconds", "1", "--keys", "20", "--rate", "400")
    command = (sys.executable, "-m", "tests.load", "--url", url, *small, "--report", str(report))
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_an_honest_service_passes(tmp_path: Path) -> None:
    with serving("none") as url:
        ended = loaded(url, tmp_path / "reports" / "load.html")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert "20 keys (Zipf 1), seed 1; 1 node" in lines[0]
    assert {line.split()[0] for line in lines[2:6]} >= {"read", "write", "delete"}
    assert "passed" in lines
    page = (tmp_path / "reports" / "load.html").read_text()
    assert re.search(r"</head>\s*<body><pre[^>]*>[^<]*reads answered by memory[^<]*passed</pre>", page)


def test_nodes_that_lag_are_counted_and_pass(tmp_path: Path) -> None:
    with serving("lagging") as url:
        ended = loaded(url, tmp_path / "load.html")
    assert ended.returncode == 0, ended.stderr
    assert "reads without Min-Version lagged behind" in ended.stdout


@pytest.mark.parametrize(("fault", "text"), [("stale", ": version "), ("failing", "read: 503 no")])
def test_a_service_that_is_not_honest_fails(tmp_path: Path, fault: Fault, text: str) -> None:
    with serving(fault) as url:
        ended = loaded(url, tmp_path / "load.html")
    assert ended.returncode == 1, ended.stderr
    assert text in ended.stdout
    assert "FAILED" in ended.stdout.splitlines()


def test_a_service_that_is_not_there_fails(tmp_path: Path) -> None:
    with serving("none") as url:
        pass
    ended = loaded(url, tmp_path / "load.html")
    assert ended.returncode == 1
    assert "does not tell its nodes" in ended.stderr
