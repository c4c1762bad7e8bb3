"""Commands on jobs and audits: warm in all its forms, jobs, job, sync."""

from __future__ import annotations

import json
import subprocess

import httpx

from tests.cli.console import SCRIPT, Inside, cachesvc, environment
from tests.processes.services import LIMIT


def write(url: str, *keys: str) -> None:
    operations = [{"operation": "set", "key": key, "value": 1} for key in keys]
    assert httpx.post(f"{url}/v1/batch", json={"operations": operations}, trust_env=False).status_code == 200


def tier(url: str, key: str) -> str:
    """Which tier a read is answered from."""
    status = httpx.head(f"{url}/v1/cache/{key}", trust_env=False).headers["cache-status"]
    return str(status.rpartition("detail=")[2])


def test_warm_from_loaders(url: str, inside: Inside) -> None:
    ran = inside("warm", "made:k1", "made:absent", "--source", "loader", url=url)
    assert ran.code == 0
    assert "done; 2 of 2 keys; 1 warmed, 1 absent" in ran.text
    assert tier(url, "made:k1") == "memory"

    told = inside("warm", "--module", "made", "--user", "u1", "--data-type", "a", "--data-type", "b", "--json", url=url).json
    assert (told["state"], told["counts"]["warmed"], told["total"]) == ("done", 2, 2)
    assert tier(url, "made:u1:b") == "memory"

    ran = inside("warm", "made:broken", "--source", "loader", url=url)
    assert ran.code == 6
    assert "made:broken" in ran.text
    assert "1 error" in ran.text


def test_warm_from_the_database_and_from_a_peer(url: str, inside: Inside) -> None:
    write(url, *(f"warmed:{number}" for number in range(3)))
    ran = inside("warm", "--pattern", "warmed:*", "--rate", "1000", url=url)
    assert ran.code == 0
    assert "3 of 3 keys" in ran.text
    assert inside("warm", "warmed:0", "warmed:1", "--concurrency", "1", "--json", url=url).json["done"] == 2
    for nothing in (("--pattern", "warmed:none*"), ("warmed:none", "warmed:nor-this")):
        ran = inside("warm", *nothing, url=url)
        assert (ran.code, ran.err) == (1, "there was nothing to warm: no entry, and nothing that a loader has\n")
    ran = inside("warm", "--source", "peer", url=url)  # there is none
    assert ran.code == 6
    assert "no other node" in ran.text


def test_what_cannot_be_warmed(url: str, inside: Inside) -> None:
    for arguments, named in (
        ((), "keys"),
        (("a", "--pattern", "b"), "keys"),
        (("--module", "nothing", "--user", "u", "--data-type", "d"), "module"),
        (("--module", "made"), "userId"),
        (("a", "--source", "moon"), "source"),
        (("a", "--rate", "-1"), "rate"),
        (("--pattern", "[a"), "pattern"),
    ):
        ran = inside("warm", *arguments, url=url)
        assert (ran.code, ran.out) == (2, b""), arguments
        assert named in ran.err, arguments


def test_a_job_that_is_not_waited_for(url: str, inside: Inside) -> None:
    write(url, *(f"later:{number}" for number in range(100)))
    started = inside("warm", "--pattern", "later:*", "--rate", "1", "--no-wait", "--json", url=url).json
    job = started["id"]
    assert started["state"] in ("waiting", "running")
    assert inside("warm", "--pattern", "later:*", "--rate", "1", "--no-wait", "--json", url=url).json["id"] == job  # joined
    assert job in [one["id"] for one in inside("jobs", "--json", url=url).json["jobs"]]
    shown = cachesvc("jobs", "--limit", "5", url=url, COLUMNS="80")
    assert job in shown.text
    assert max(map(len, shown.text.splitlines())) <= 80
    assert inside("job", job, url=url).code == 0

    command = (SCRIPT, "job", job, "--follow", "--json", "--url", url)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        assert (first["id"], first["state"]) == (job, "running")
        ran = inside("job", job, "--cancel", url=url)
        assert ran.code == 0
        *_, last = map(json.loads, following.stdout)
        assert last["state"] == "cancelled"
        assert following.wait(LIMIT) == 6
    assert inside("job", job, url=url).code == 6


def test_a_job_that_is_not_there(url: str, inside: Inside) -> None:
    for flags in ((), ("--follow",), ("--follow", "--json"), ("--cancel",)):
        ran = inside("job", "nothing", *flags, url=url)
        assert (ran.code, ran.out) == (1, b"")


def test_the_sweep_of_an_invalidation_is_a_job_without_cancel(url: str, inside: Inside) -> None:
    write(url, "swept:1")
    job = inside("invalidate", "--pattern", "swept:*", "--json", url=url).json["job"]
    assert "sweep of swept:*" in inside("job", job, url=url).text
    assert inside("job", job, "--cancel", url=url).code == 3


def test_sync(url: str, inside: Inside) -> None:
    write(url, "audited:1")
    told = inside("sync", "--json", url=url).json
    assert told["state"] == "done"
    assert set(told["tiers"]) == {"memory", "redis"}
    assert told["tiers"]["memory"]["repaired"] == 0
    ran = inside("sync", "--tier", "memory", "--sample", "1", url=url)  # which may be past the last of them
    assert ran.code == 0
    assert "a sample" in ran.text
    ran = cachesvc("sync", "--tier", "memory", url=url)
    assert ran.code == 0
    assert "100.0000%" in ran.text
    ran = inside("sync", "--last", url=url)
    assert ran.code == 0
    assert told["node"] in ran.text
    assert [node["node"] for node in inside("sync", "--last", "--json", url=url).json["nodes"]] == [told["node"]]
    assert inside("sync", "--tier", "moon", url=url).code == 2
