"""Snapshots by the command line: whole or not at all, both ways."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from tests.cli.console import SCRIPT, Inside, cachesvc, environment, terminal
from tests.cli.test_failures import answering, http


def write(url: str, *keys: str, value: object = 1) -> None:
    operations = [{"operation": "set", "key": key, "value": value, "tags": ["kept"]} for key in keys]
    assert httpx.post(f"{url}/v1/batch", json={"operations": operations}, trust_env=False).status_code == 200


def get(url: str, key: str) -> bytes:
    return httpx.get(f"{url}/v1/cache/{key}", trust_env=False).content


def test_there_and_back(url: str, inside: Inside, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("what was there before")
    write(url, *(f"shot:{number}" for number in range(3)))
    httpx.put(f"{url}/v1/cache/shot:3", content=bytes(range(256)), headers={"Content-Type": "image/png"}, trust_env=False)
    ran = cachesvc("snapshot", file, "--pattern", "shot:*", url=url)
    assert (ran.code, ran.err) == (0, "")
    assert f"{file}: 4 entries, " in ran.text
    assert list(tmp_path.iterdir()) == [file]
    told = inside("snapshot", file, "--pattern", "shot:*", "--json", url=url).json
    assert (told["entries"], told["bytes"]) == (4, file.stat().st_size)

    httpx.delete(f"{url}/v1/cache/shot:0", trust_env=False)
    write(url, "shot:1", value=2)
    ran = cachesvc("restore", file, url=url)
    assert ran.code == 0
    assert "4 of 4 keys" in ran.text
    assert (get(url, "shot:1"), get(url, "shot:2")) == (b"2", b"1")  # nothing newer is written over
    assert b"NOT_FOUND" in get(url, "shot:0")  # nor does what was deleted come back
    assert get(url, "shot:3") == bytes(range(256))
    job = inside("restore", file, "--no-wait", "--json", url=url).json
    assert job["kind"] == "restore"


def test_by_a_pipe(url: str, inside: Inside, tmp_path: Path) -> None:
    write(url, *(f"pipe:{number}" for number in range(3)))
    ran = cachesvc("snapshot", "-", "--pattern", "pipe:*", url=url)
    assert ran.code == 0
    assert ran.err.startswith("3 entries, ")
    assert inside("snapshot", tmp_path / "file", "--pattern", "pipe:*", url=url).code == 0
    assert ran.out.count(b"\n") == (tmp_path / "file").read_bytes().count(b"\n")
    restored = cachesvc("restore", "-", url=url, stdin=ran.out)
    assert restored.code == 0
    assert "3 of 3 keys" in restored.text
    cut = cachesvc("restore", "-", url=url, stdin=ran.out[:-9])
    assert (cut.code, "cut off" in cut.err) == (6, True)
    mixed = cachesvc("snapshot", "-", "--json", url=url)
    assert (mixed.code, mixed.out) == (2, b"")
    assert not Path("-").exists()


def test_a_damaged_one_is_not_sent(url: str, inside: Inside, tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(url, *(f"hurt:{number}" for number in range(3)))
    assert inside("snapshot", file, "--pattern", "hurt:*", url=url).code == 0
    whole = file.read_bytes()
    jobs = len(inside("jobs", "--limit", "1000", "--json", url=url).json["jobs"])
    for damaged in (
        whole[:-1],
        whole[: len(whole) // 2],
        whole[: whole.rindex(b"\n", 0, -1) + 1],
        whole.replace(b"hurt:1", b"hurt:9"),
    ):
        file.write_bytes(damaged)
        ran = inside("restore", file, url=url)
        assert (ran.code, ran.out) == (6, b"")
        assert "no whole snapshot" in ran.err
    file.write_bytes(whole + whole)
    assert inside("restore", file, url=url).code == 6
    assert len(inside("jobs", "--limit", "1000", "--json", url=url).json["jobs"]) == jobs


def test_one_that_is_cut_off_leaves_no_file(url: str, inside: Inside, tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(url, "cut:1")
    inside("snapshot", file, "--pattern", "cut:*", url=url)
    whole = file.read_bytes()
    file.write_bytes(b"kept")
    for body, length, code in ((whole[:-20], None, 6), (whole[:-20], len(whole), 4), (whole + b"{}\n", None, 6)):
        with answering(http("200 OK", body, "application/x-ndjson", length=length)) as other:
            ran = inside("snapshot", file, url=other)
        assert (ran.code, ran.out) == (code, b"")
        assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("file", b"kept")]


def test_a_full_disk_leaves_no_file(url: str, tmp_path: Path) -> None:
    write(url, *(f"full:{number}" for number in range(20)), value="x" * 500)
    command = f"ulimit -f 1; '{SCRIPT}' snapshot '{tmp_path}/file' --pattern 'full:*'"  # a file of 1 KiB at most
    ran = subprocess.run(("bash", "-c", command), env=environment(CACHESVC_URL=url), capture_output=True, check=False)
    assert ran.returncode == 6
    assert b"cannot be written: File too large" in ran.stderr
    assert ran.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["/dev/null", "/tmp"])
def test_what_is_no_file_is_not_replaced(file: str, url: str, inside: Inside) -> None:
    ran = inside("snapshot", file, url=url)
    assert (ran.code, "is no file" in ran.err) == (2, True)


def test_at_a_terminal_it_shows_how_it_goes_on(url: str, tmp_path: Path) -> None:
    write(url, "drawn:1")
    with terminal("snapshot", tmp_path / "file", "--pattern", "drawn:*", url=url) as at:
        at.shows("snapshot 1 entry .*━|snapshot .*bytes|snapshot 0 entries")
        assert at.ended() == 0
    with terminal("restore", tmp_path / "file", url=url) as at:
        at.shows("check 1 entry")
        at.shows("restore 1 entry")
        assert at.ended() == 0
