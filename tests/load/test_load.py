"""`python -m tests.load` from outside: it passes an honest service and fails one that is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.load.fake import Fault, serving

ROOT = Path(__file__).parents[2]


SMALL = ("--users", "6", "--keys", "20", "--rate", "400")
ALONE = ("--subscribers", "0", "--operations", "0")  # the fake service has neither sockets nor patterns


def loaded(url: str, report: Path) -> subprocess.CompletedProcess[str]:
    return done("--url", url, *SMALL, *ALONE, "--seconds", "1", "--report", str(report))


def done(*options: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "tests.load", *options)
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_subscribers_and_an_operator_over_a_real_service(tmp_path: Path) -> None:
    ended = done(*SMALL, "--seconds", "3", "--operations", "120", "--soak", "--report", str(tmp_path / "load.html"))
    assert "passed" in ended.stdout.splitlines(), ended.stdout + ended.stderr
    lines = {line.split()[0]: line.split() for line in ended.stdout.splitlines() if line.strip()}
    for kind in ("read", "write", "push", "invalidate", "warm", "job"):
        assert int(lines[kind][1].replace(",", "")) > 0, ended.stdout
        assert lines[kind][3] == "0"
    assert re.search(r"s: [0-9,]+/s, p50 .* ms, 0 errors; reads from memory", ended.stdout)
    assert {"memory:", "descriptors:", "latency:"} <= set(lines)


def test_the_page_of_locust_starts_the_users(tmp_path: Path) -> None:
    with serving("none") as url:
        options = ("--url", url, *SMALL, *ALONE, "--ui", "--report", str(tmp_path / "load.html"))
        command = (sys.executable, "-u", "-m", "tests.load", *options)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
            assert running.stdout is not None
            try:
                page = re.search(r"http://[0-9.:]+", running.stdout.readline())
                assert page is not None
                httpx.post(f"{page[0]}/swarm", data={"user_count": "6", "spawn_rate": "6"}, timeout=30).raise_for_status()
                deadline = time.monotonic() + 60
                while httpx.get(f"{page[0]}/stats/requests", timeout=30).json()["stats"][-1]["num_requests"] < 50:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            finally:
                os.killpg(running.pid, signal.SIGINT)  # as Ctrl-C does
            said = running.stdout.read()
            assert running.wait(60) == 0, said
    assert "passed" in said.splitlines()


def test_an_honest_service_passes(tmp_path: Path) -> None:
    with serving("none") as url:
        ended = loaded(url, tmp_path / "reports" / "load.html")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert any("20 keys (Zipf 1), seed 1; 1 node" in line for line in lines)
    assert {line.split()[0] for line in lines if line.strip()} >= {"read", "write", "delete"}
    assert "passed" in lines
    page = (tmp_path / "reports" / "load.html").read_text()
    assert re.search(r"</head>\s*<body><pre[^>]*>[^<]*reads answered by memory[^<]*passed</pre>", page)


def test_nodes_that_lag_are_counted_and_pass(tmp_path: Path) -> None:
    with serving("lagging") as url:
        ended = loaded(url, tmp_path / "load.html")
    assert ended.returncode == 0, ended.stderr
    assert "reads without Min-Version lagged behind" in ended.stdout


@pytest.mark.parametrize(("fault", "texts"), [("stale", [": version "]), ("failing", ["read: 503 no", "the last one: 503"])])
def test_a_service_that_is_not_honest_fails(tmp_path: Path, fault: Fault, texts: list[str]) -> None:
    with serving(fault) as url:
        ended = loaded(url, tmp_path / "load.html")
    assert ended.returncode == 1, ended.stderr
    assert all(text in ended.stdout for text in texts)
    assert "FAILED" in ended.stdout.splitlines()
    assert (tmp_path / "load.html").exists()


def test_a_service_that_is_not_there_fails(tmp_path: Path) -> None:
    with serving("none") as url:
        pass
    ended = loaded(url, tmp_path / "load.html")
    assert ended.returncode == 1
    assert "does not tell its nodes" in ended.stderr
