"""At a terminal: the question before much is invalidated, the progress of a job, what is watched, and colours."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.cli.console import Inside, cachesvc, terminal

MANY = 150


def write(url: str, module: str, count: int = MANY) -> None:
    operations = [{"operation": "set", "key": f"{module}:{number}", "value": 1} for number in range(count)]
    assert httpx.post(f"{url}/v1/batch", json={"operations": operations}, trust_env=False).status_code == 200


def left(url: str, module: str) -> int:
    return len(httpx.get(f"{url}/v1/keys?pattern={module}:*&limit=1000", trust_env=False).json()["keys"])


def test_it_asks_before_much_is_invalidated(url: str) -> None:
    write(url, "asked")
    with terminal("invalidate", "--pattern", "asked:*", url=url) as at:
        at.shows(r"would be hit: 150 entries")
        at.shows(r"Invalidate 150 entries\? \[y/N\]")
        at.type("n\n")
        at.shows("Nothing was done")
        assert at.ended() == 5
    assert left(url, "asked") == MANY
    with terminal("invalidate", "--pattern", "asked:*", url=url) as at:
        at.shows(r"\[y/N\]")
        at.interrupt()
        assert at.ended() == 130
    assert left(url, "asked") == MANY
    with terminal("invalidate", "--pattern", "asked:*", url=url) as at:
        at.shows(r"\[y/N\]")
        at.type("y\n")
        at.shows("invalidated 150 entries")
        assert at.ended() == 0
    assert left(url, "asked") == 0


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_job_shows_how_it_goes_on_and_ctrl_c_asks(answer: str, url: str, inside: Inside) -> None:
    write(url, f"slow-{answer}")
    with terminal("warm", "--pattern", f"slow-{answer}:*", "--rate", "2", url=url) as at:
        at.shows(rf"warm slow-{answer}:\* .*━")
        at.shows(r"[1-9]\d* of 150 .*/s .*left")
        at.interrupt()
        job = at.shows(r"The job (\S+) goes on by itself. Cancel it\? \[y/N\]")[1]
        assert httpx.get(f"{url}/v1/jobs/{job}", trust_env=False).json()["state"] == "running"
        at.type(f"{answer}\n")
        if answer == "n":
            at.shows(rf"to cancel it: cachesvc job {job} --cancel")
        assert at.ended() == 130
    if answer == "n":
        assert inside("job", job, "--json", url=url).json["state"] == "running"
        assert inside("job", job, "--cancel", url=url).code == 0
    ran = inside("job", job, "--follow", "--json", url=url)
    assert ran.code == 6
    assert b'"state":"cancelled"' in ran.out.splitlines()[-1]


def test_what_is_watched_is_drawn_again(url: str) -> None:
    with terminal("stats", "--watch", "--interval", "0.1", url=url) as at:
        at.shows(r"(?s)(node .*memory.*){3}")
        at.interrupt()
        assert at.ended() == 130
    assert max(map(len, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", at.shown).splitlines())) <= 80


def test_a_value_cannot_steer_the_terminal(url: str) -> None:
    cachesvc("set", "evil", "-", "--content-type", "text/plain", stdin=b"a\x1b[2Jb\nc\x07", url=url)
    with terminal("get", "evil", url=url) as at:
        assert at.ended() == 0
    assert at.shown == "a\\x1b[2Jb\r\nc\\x07\r\n"


def test_colours_only_where_they_are_wanted(url: str) -> None:
    with terminal("nodes", url=url) as at:
        assert at.ended() == 0
    assert "\x1b[" in at.shown
    with terminal("nodes", url=url, NO_COLOR="1") as at:
        assert at.ended() == 0
    assert "\x1b[3" not in at.shown
    assert "\x1b[9" not in at.shown
