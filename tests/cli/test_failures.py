"""Whatever may be at the other end, or go wrong on this side: one line, an exit code, and never a traceback."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.console import SCRIPT, Inside, cachesvc, environment
from tests.servers import free_port

KEYS = b'{"keys":[],"cursor":null}'


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that answers each connection with some bytes, the last over and over, and closes it; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for number in range(1_000):
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65_536)
                    peer.sendall(answers[min(number, len(answers) - 1)])

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def http(status: str, body: bytes, kind: str = "application/json", *, length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


def problem(status: int, **members: str) -> bytes:
    told = "".join(f',"{name}":{value}' for name, value in members.items())
    body = f'{{"type":"","title":"","status":{status},"detail":"as \\u001b[31mit is","code":"X","recoverable":true{told}}}'
    return http(f"{status} X", body.encode(), "application/problem+json")


HTML = b"<html><h1>It works!</h1></html>"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (http("404 Not Found", HTML, "text/html"), 4, "is the URL right?"),
        (http("200 OK", HTML, "text/html"), 4, "is the URL right?"),
        (http("502 Bad Gateway", HTML, "text/html"), 4, "cannot be reached"),
        (http("301 Moved", b"", "text/html"), 4, "redirects elsewhere"),
        (http("200 OK", b'{"keys": ['), 4, "is the URL right?"),
        (http("200 OK", b"[" * 100_000), 4, "is the URL right?"),
        (http("200 OK", b"\xff\xfe"), 4, "is the URL right?"),
        (http("200 OK", KEYS, length=1_000), 4, "in the middle of its answer"),
        (b"", 4, "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 4, "closed the connection"),
        (problem(401), 2, "as \\x1b[31mit is"),
        (problem(409), 3, "as "),
        (problem(410), 3, "as "),
        (problem(500), 4, "as "),
        (problem(503, retryAfter="600"), 4, "as "),
    ],
)
def test_what_may_answer(answer: bytes, code: int, said: str, inside: Inside) -> None:
    with answering(answer) as url:
        ran = inside("keys", url=url)
    assert (ran.code, ran.out) == (code, b"")
    assert ran.err.startswith("cachesvc: ")
    assert said in ran.err


def test_nobody_answers(inside: Inside) -> None:
    for arguments in (("get", "a"), ("set", "a", "1"), ("changes", "--after", "1:1"), ("nodes", "--json")):
        ran = inside(*arguments, url=f"http://127.0.0.1:{free_port()}")
        assert (ran.code, ran.out) == (4, b"")
        assert "cannot be reached: " in ran.err
        assert ran.err.count("\n") == 1


def test_it_is_asked_again(inside: Inside) -> None:
    with answering(problem(503, retryAfter="0.01"), b"", http("200 OK", KEYS)) as url:
        assert inside("keys", url=url).err == "no key matches *\n"


def test_a_node_that_has_not_applied_it_is_named(inside: Inside) -> None:
    seen = b'{"dryRun":true,"matched":1,"cascaded":0,"bytes":1,"modules":{},"sample":[],"cascade":{},"loads":{}}'
    done = b'{"sequence":9,"operation":"invalidate","matched":1,"cascaded":0,"job":null,"applied":false,"missing":["node-2"]}'
    with answering(http("200 OK", seen), http("200 OK", done)) as url:
        ran = inside("invalidate", "a", "--wait", url=url)
    assert ran.code == 6
    assert "not applied yet by node-2" in ran.text


def test_a_dry_run_that_fails_stops_it_unless_it_is_agreed_to(inside: Inside) -> None:
    done = http("200 OK", b'{"sequence":9,"operation":"invalidate","matched":null,"cascaded":0,"job":"invalidation-9"}')
    with answering(problem(503, retryAfter="600"), done) as url:
        ran = inside("invalidate", "--pattern", "*", "--yes", url=url)
    assert ran.code == 0
    assert "going on, as --yes says" in ran.err
    assert "cachesvc job invalidation-9" in ran.text
    with answering(problem(503, retryAfter="600")) as url:
        ran = cachesvc("invalidate", "--pattern", "*", url=url)
    assert (ran.code, ran.out) == (4, b"")
    assert "--yes goes on without" in ran.err


@pytest.mark.parametrize("command", ["snapshot", "job", "changes"])
def test_a_stream_that_is_none(command: str, inside: Inside, tmp_path: Path) -> None:
    arguments = {"snapshot": (tmp_path / "file",), "job": ("a", "--follow", "--json"), "changes": ("--follow",)}[command]
    with answering(http("200 OK", HTML, "text/html")) as url:
        ran = inside(command, *arguments, url=url)
    assert (ran.code, ran.out) == (6 if command == "snapshot" else 4, b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", [b"", b"hello\n", b'{"snapshot":2}\n', b'{"snapshot":1,"position":"1:1","at":1,"pattern":"*","service":"0"}\n']
)
def test_a_file_that_is_no_snapshot_is_not_sent(text: bytes, inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(text)
    ran = inside("restore", tmp_path / "file", url="http://127.0.0.1:1")  # where nobody is
    assert ran.code == 6
    assert "snapshot" in ran.err


def test_files_that_cannot_be_used(url: str, inside: Inside, tmp_path: Path) -> None:
    assert "cannot be read: No such file" in inside("restore", tmp_path / "none", url=url).err
    assert "cannot be read: Is a directory" in inside("restore", tmp_path, url=url).err
    ran = inside("snapshot", tmp_path / "none" / "file", url=url)
    assert ran.code == 6
    assert "cannot be written: No such file" in ran.err


@pytest.mark.parametrize("arguments", ["keys --json", "keys", "get full"])
def test_an_output_that_is_full(arguments: str, url: str) -> None:
    httpx.put(f"{url}/v1/cache/full", content=b"1", trust_env=False)
    ran = subprocess.run(
        ("bash", "-c", f"'{SCRIPT}' {arguments} > /dev/full"),
        env=environment(CACHESVC_URL=url),
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 6
    assert ran.stderr == b"cachesvc: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_an_output_that_is_closed_is_told_of(url: str, closed: str) -> None:
    ran = subprocess.run(
        ["sh", "-c", f'exec "$0" stats --url "$1" {closed}', SCRIPT, url], capture_output=True, env=environment(), check=False
    )
    told = "" if "2>" in closed else "cachesvc: the output cannot be written: stdout is closed\n"
    assert (ran.returncode, ran.stderr.decode()) == (6, told)
