"""Every command on entries, nodes and the log: what it prints for people and for machines, and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx

from tests.cli.console import SCRIPT, Inside, Ran, cachesvc, environment
from tests.processes.services import LIMIT

ODD = ("odd:emoji 👩‍💻 ü", "odd:[bold]x[/bold]", "odd:../.././%2F?#", "odd:\\[*]", "odd::smile:", "odd:\u202eright")


def position(url: str) -> str:
    log = httpx.get(f"{url}/v1/stats", trust_env=False).json()["log"]
    return f"{log['epoch']}:{log['applied']}"


def write(url: str, *keys: str, **members: object) -> None:
    """Write all at once, without the command line."""
    operations = [{"operation": "set", "key": key, "value": 1} | members for key in keys]
    answer = httpx.post(f"{url}/v1/batch", json={"operations": operations}, trust_env=False)
    assert all(result["status"] == 201 for result in answer.json()["results"]), answer.text


def lines(ran: Ran) -> list[str]:
    return ran.text.splitlines()


def test_a_value_goes_in_and_comes_out_byte_for_byte(url: str, inside: Inside, tmp_path: Path) -> None:
    assert cachesvc("set", "value:1", '{"a": 1.10}', url=url).code == 0
    ran = cachesvc("get", "value:1", url=url)
    assert (ran.code, ran.out, ran.err) == (0, b'{"a": 1.10}', "")

    told = inside("get", "value:1", "--json", url=url)
    assert b'"value":{"a": 1.10}' in told.out
    assert told.json["contentType"] == "application/json"
    assert told.json["version"] > 0

    data = bytes(range(256))
    (tmp_path / "data").write_bytes(data)
    assert inside("set", "value:2", f"@{tmp_path}/data", "--content-type", "application/octet-stream", url=url).code == 0
    assert cachesvc("set", "value:3", "-", "--content-type", "image/png", stdin=data, url=url).code == 0
    for key in ("value:2", "value:3"):
        assert cachesvc("get", key, url=url).out == data
    assert inside("get", "value:3", "--json", url=url).json["encoding"] == "base64"

    ran = inside("get", "value:1", "--info", "--fresh", url=url)
    assert ran.out == b'{"a": 1.10}'
    assert "detail=database" in ran.err


def test_what_is_not_there(url: str, inside: Inside) -> None:
    ran = inside("get", "value:none", url=url)
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err == "there is no entry value:none\n"
    ran = inside("get", "value:none", "--json", url=url)
    assert (ran.code, ran.json) == (1, {"key": "value:none", "missing": True})
    assert inside("delete", "value:none", "--json", url=url).json == {"key": "value:none", "deleted": False}
    assert inside("delete", "value:none", url=url).code == 1
    assert inside("keys", "value:none*", url=url).code == 1
    ran = inside("keys", "value:none*", "--json", url=url)
    assert (ran.code, ran.json) == (1, {"keys": [], "cursor": None})


def test_conditions(url: str, inside: Inside) -> None:
    first = inside("set", "condition", "1", "--if-absent", "--json", url=url)
    assert first.json == {"key": "condition", "version": first.json["version"], "operation": "set"}
    ran = inside("set", "condition", "2", "--if-absent", url=url)
    assert (ran.code, ran.out) == (3, b"")
    assert f"is at version {first.json['version']}" in ran.err
    version = str(first.json["version"])
    assert inside("set", "condition", "2", "--if-match", version, url=url).code == 0
    assert inside("delete", "condition", "--if-match", version, url=url).code == 3
    assert inside("delete", "condition", url=url).text == "condition is deleted\n"
    assert inside("set", "condition", "2", "--if-match", "1", "--if-absent", url=url).code == 2


def test_what_is_not_acceptable(url: str, inside: Inside) -> None:
    for arguments, named in (
        (("set", "wrong", "hello"), "--content-type text/plain"),
        (("set", "wrong", "@/does/not/exist"), "value"),
        (("set", "wrong", "1", "--ttl", "0"), "ttl"),
        (("set", "", "1"), "key"),
        (("keys", "[a"), "pattern"),
        (("keys", "--cursor", "x"), "cursor"),
        (("query", "colour=red"), "colour"),
        (("query", "colour"), "FIELD=VALUE"),
        (("increment", "wrong", "one"), "amount"),
        (("changes",), "--follow"),
        (("changes", "--after", "here"), "--after"),
        (("invalidate",), "keys"),
        (("get", "a", "--url", "localhost"), "url"),
        (("get", "a", "--token", "a b"), "token"),
        (("get", "a\udcff"), "key: is not UTF-8"),
        (("invalidate", "a", "\udcff"), "keys: is not UTF-8"),
        (("frobnicate",), "frobnicate"),
    ):
        ran = inside(*arguments, url=url)
        assert (ran.code, ran.out) == (2, b""), arguments
        assert named in ran.err, arguments


def test_sums_are_exact(url: str, inside: Inside) -> None:
    assert inside("increment", "sum", "0.1", url=url).text == "0.1\n"
    assert inside("increment", "sum", "0.2", url=url).text == "0.3\n"
    assert inside("increment", "sum", "-2.30", "--json", url=url).out.endswith(b'"value":-2.00}\n')
    assert inside("increment", "sum", url=url).text == "-1.00\n"


def test_keys_are_listed_as_they_are(url: str) -> None:
    assert cachesvc("set", ODD[0], "1", "--tag", "[red]t", "--ttl", "3600", url=url).code == 0
    write(url, *ODD[1:], tags=["[red]t"])
    told = cachesvc("keys", "odd:*", "--json", url=url).json
    assert [one["key"] for one in told["keys"]] == sorted(ODD, key=str.encode)
    wide = cachesvc("keys", "odd:*", url=url)
    assert len(lines(wide)) == 2 + len(ODD)
    for key in ODD:
        assert key.replace("\u202e", "\\u202e") in wide.text
    assert wide.text.count("[red]t") == len(ODD)
    assert "\x1b" not in wide.text


def test_tables_fit_into_80_columns(url: str, inside: Inside) -> None:
    long = "long:" + "k" * 300
    assert inside("set", long, "1", "--depends-on", long, url=url).code == 0
    for arguments in (("keys", "long:*"), ("explain", long), ("stats",), ("nodes",), ("invalidate", long, "--dry-run")):
        ran = inside(*arguments, url=url, COLUMNS="80")
        assert ran.code == 0
        assert max(map(len, lines(ran))) <= 80, ran.text
    shown = inside("keys", "long:*", url=url, COLUMNS="80")
    assert sum(line.count("k") for line in lines(shown)[2:]) == 300  # folded, not cut
    assert long in inside("keys", "long:*", url=url).text  # without a width a line is one line


def test_pages(url: str, inside: Inside) -> None:
    write(url, *(f"page:{number}" for number in range(5)), value={"brand": "Paged"})
    first = inside("keys", "page:*", "--limit", "2", url=url)
    assert len(lines(first)) == 4
    assert "--all, or --cursor" in first.err
    told = inside("keys", "page:*", "--limit", "2", "--json", url=url).json
    rest = inside("keys", "page:*", "--all", "--cursor", told["cursor"], "--json", url=url).json
    assert [one["key"] for one in told["keys"] + rest["keys"]] == [f"page:{number}" for number in range(5)]
    assert rest["cursor"] is None

    found = inside("query", "brand=Paged", "brand=Other", "--limit", "3", "--json", url=url)
    assert [one["value"] for one in found.json["entries"]] == [{"brand": "Paged"}] * 3
    assert '{"brand":"Paged"}' in inside("query", "brand=Paged", "--all", url=url).text
    assert inside("query", "brand=None", url=url).code == 1


def test_explain(url: str, inside: Inside) -> None:
    assert inside("set", "explained", "1", "--tag", "tagged", "--depends-on", "parent:1", url=url).code == 0
    told = inside("explain", "explained", "--json", url=url).json
    assert (told["tags"], told["parents"]) == (["tagged"], ["parent:1"])
    assert list(told["tiers"]) == ["memory", "redis", "database"]
    shown = inside("explain", "explained", url=url).text
    for said in ("memory", "redis", "database", "live", "tagged", "parent:1", f"write {told['writtenBy']['sequence']}"):
        assert said in shown
    by = inside("invalidate", "--pattern", "explaine?", "--json", "--yes", url=url).json["sequence"]
    shown = inside("explain", "explained", url=url).text
    assert re.search(rf"invalidated by {by} +explaine\?, ", shown), shown
    ran = inside("explain", "explained:not", url=url)
    assert ran.code == 1
    assert "nothing" in ran.text


def test_nodes_and_stats(url: str, inside: Inside) -> None:
    told = inside("nodes", "--json", url=url).json
    assert [node["self"] for node in told["nodes"]] == [True]
    assert told["nodes"][0]["node"] in inside("nodes", url=url).text
    told = inside("stats", "--json", url=url).json
    assert set(told["tiers"]) >= {"memory", "redis", "database"}
    shown = inside("stats", url=url).text
    assert told["node"] in shown
    assert "ratio" in shown


def test_what_is_watched_ends_with_an_interrupt(url: str) -> None:
    for arguments, found in (
        (("stats", "--watch", "--interval", "0.1", "--json"), b"{"),
        (("changes", "--follow"), b"watched"),
    ):
        command = (SCRIPT, *arguments, "--url", url)
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            os.set_blocking(process.stdout.fileno(), False)
            seen = b""
            while seen.count(found) < 2:
                httpx.put(f"{url}/v1/cache/watched", content=b"1", trust_env=False)
                seen += process.stdout.read() or b""
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == 130
            assert process.stderr.read() == b""


def test_the_log_from_a_position(url: str, inside: Inside) -> None:
    start = position(url)
    httpx.put(f"{url}/v1/cache/logged:1", content=b'{"a": 1.50}', trust_env=False)
    write(url, "other")
    inside("invalidate", "logged:1", "--yes", "--json", url=url)
    every = inside("changes", "--after", start, url=url)
    assert [kind in line for line, kind in zip(lines(every), ("logged:1", "other", "invalidate"), strict=True)] == [True] * 3
    some = cachesvc("changes", "--after", start, "--pattern", "logged:*", "--json", url=url)
    told = [json.loads(line) for line in lines(some)]
    assert [(one["kind"], one["key"]) for one in told] == [("write", "logged:1"), ("invalidate", None)]
    assert b'"value":{"a": 1.50}' in some.out
    again = inside("changes", "--after", told[0]["position"], "--json", url=url)
    assert len(lines(again)) == 2
    assert inside("changes", "--after", position(url), url=url).out == b""
    assert inside("changes", "--after", "1:1", url=url).code == 3


def test_a_reader_that_leaves(url: str) -> None:
    write(url, "pipe:1")
    for command in ("stats --watch --interval 0.1 | head -1 > /dev/null", "keys 'pipe:*' | true", "get pipe:1 --json | true"):
        script = f"'{SCRIPT}' {command}; echo ${{PIPESTATUS[0]}}"
        ran = subprocess.run(("bash", "-c", script), env=environment(CACHESVC_URL=url), capture_output=True, check=False)
        assert (ran.stdout, ran.stderr) == (b"141\n", b""), command


def test_an_invalidation_shows_first_what_it_hits(url: str, inside: Inside) -> None:
    write(url, "gone:1", tags=["gone"], value="x")
    write(url, "gone-too:1", dependsOn=["gone:1"], value="y")
    write(url, "gone-too:2", dependsOn=["gone-too:1"], value="y")
    looked = inside("invalidate", "--tag", "gone", "--cascade", "--dry-run", url=url)
    assert looked.code == 0
    assert "would be hit: 1 entry and 2 dependents, 9 B" in looked.text
    assert "invalidated" not in looked.text
    for said in ("gone-too", "cascade\n└── gone:1\n    └── gone-too:1\n        └── gone-too:2\n"):
        assert said in looked.text
    told = inside("invalidate", "--tag", "gone", "--cascade", "--dry-run", "--json", url=url).json
    assert (told["matched"], told["cascaded"]) == (1, 2)
    assert inside("get", "gone:1", url=url).code == 0

    done = inside("invalidate", "--tag", "gone", "--cascade", "--wait", url=url)
    assert done.code == 0
    assert done.text.startswith("would be hit: 1 entry and 2 dependents")
    assert "invalidated 1 entry and 2 dependents, by change" in done.text
    assert "every live node has applied it" in done.text
    assert inside("get", "gone-too:2", url=url).code == 1

    ran = inside("invalidate", "--pattern", "gone*", "--json", url=url)
    assert (ran.code, ran.json["matched"]) == (1, 0)
    assert inside("invalidate", "--pattern", "gone*", "--dry-run", url=url).code == 1


def test_tokens_are_revoked(url: str, inside: Inside) -> None:
    done = inside("revoke", "--jti", "t-1", "--expires-at", "4000000000", "--wait", "--json", url=url)
    assert (done.code, done.json["jti"], done.json["expiresAt"], done.json["applied"]) == (0, "t-1", 4e9, True)
    done = inside("revoke", "--sub", "ann\x1b[1m", "--expires-at", "4000000000", url=url)
    assert (done.code, done.text.split(", at ")[0]) == (0, "revoked: the tokens of ann\\x1b[1m, until 2096-10-02 07:06 UTC")
    for wrong, named in (((), "jti"), (("--jti", "a", "--sub", "b"), "jti"), (("--sub", "a", "--before", "5e9"), "before")):
        ran = inside("revoke", *wrong, url=url)
        assert (ran.code, ran.err.split(":")[1]) == (2, f" {named}")


def test_soft_keeps_what_it_names_as_stale(url: str, inside: Inside) -> None:
    write(url, "soft:1")
    assert "marked as stale 1 entry" in inside("invalidate", "soft:1", "--soft", url=url).text
    explained = inside("explain", "soft:1", "--json", url=url).json
    assert explained["tiers"]["database"]["present"]
    assert not explained["tiers"]["database"]["live"]
    assert "past its life" in inside("explain", "soft:1", url=url).text


def test_listings_of_many_pages_are_one_document(url: str, inside: Inside) -> None:
    for start in (0, 1_000):
        write(url, *(f"lot:{number:04}" for number in range(start, start + 1_000)))
    told = inside("keys", "lot:*", "--all", "--json", url=url).json
    assert [one["key"] for one in told["keys"]] == [f"lot:{number:04}" for number in range(2_000)]
    assert told["cursor"] is None
    some = inside("keys", "lot:*", "--limit", "1500", "--json", url=url).json
    assert len(some["keys"]) == 1_500
    assert some["cursor"]
    assert inside("keys", "lot:*", "--all", url=url).text.count("lot:") == 2_000


def test_much_is_not_invalidated_without_leave(url: str, inside: Inside) -> None:
    many = [f"much:{number}" for number in range(101)]
    write(url, *many)
    for flags in ((), ("--json",)):
        ran = inside("invalidate", "--pattern", "much:*", *flags, url=url)
        assert ran.code == 5
        assert "101 entries" in ran.err
        assert "need --yes" in ran.err
    assert inside("get", many[0], url=url).code == 0
    assert inside("invalidate", *many[:100], "--dry-run", url=url).code == 0
    ran = inside("invalidate", "--pattern", "much:*", "--yes", url=url)
    assert ran.code == 0
    assert "would be hit: 101 entries" in ran.text
    assert "invalidated 101 entries" in ran.text
    assert inside("get", many[0], url=url).code == 1
