from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.load.plan import Failed, Plan, parse


def test_the_defaults_start_one_worker() -> None:
    plan = parse([])
    assert (plan.url, plan.nodes, plan.users, plan.keys, plan.skew, plan.rate) == ("", 1, 16, 5_000, 1.0, 0.0)
    assert plan.report.endswith("reports/load.html")
    assert Plan.loaded(plan.dumped()) == plan
    assert parse([]).prefix != plan.prefix


def test_a_soak_is_long_and_has_a_pace() -> None:
    assert (parse(["--soak"]).seconds, parse(["--soak"]).rate) == (600, 200)
    assert (parse(["--soak", "--minutes", "3", "--rate", "0"]).seconds, parse(["--ui"]).seconds) == (180, 3_600)


def test_a_service_that_runs_is_asked_for_its_nodes_unless_told() -> None:
    assert parse(["--url", "http://localhost:8080/"]).nodes == 0
    assert parse(["--url", "http://[::1]:8080"]).url == "http://[::1]:8080"
    assert parse(["--url", "http://127.0.0.1:8080", "--workers", "3"]).nodes == 3


def test_a_trace_names_its_keys(tmp_path: Path) -> None:
    (tmp_path / "a.trace").write_bytes(struct.pack(">3i", 1, 2, 1))
    plan = parse(["--trace", str(tmp_path / "a.trace")])
    assert plan.keys_text == "the trace a.trace"
    assert plan.popularity().keys == [f"{plan.prefix}1", f"{plan.prefix}2"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--url", "http://192.0.2.1:80"], "--url (URL of make): 192.0.2.1 is not this machine"),
        (["--url", "http://0.0.0.0:80"], "--url (URL of make): 0.0.0.0 is not this machine"),
        (["--url", "https://127.0.0.1"], "--url (URL of make): 'https://127.0.0.1' must look like"),
        (["--url", "http://u:p@127.0.0.1"], "must look like"),
        (["--url", "http://127.0.0.1/v1"], "must look like"),
        (["--url", "http://127.0.0.1:99999"], "--url"),
        (["--users", "2"], "--users (USERS of make): '2' must be a whole number from 3 to 1,000"),
        (["--users", "4.5"], "--users"),
        (["--seconds", "nan"], "--seconds (SECONDS of make): 'nan' must be a number from 0.1 to 86,400"),
        (["--seconds", "inf"], "--seconds"),
        (["--keys", "0"], "--keys"),
        (["--skew", "-1"], "--skew"),
        (["--rate", "1e9"], "--rate"),
        (["--subscribers", "101"], "--subscribers"),
        (["--operations", "-1"], "--operations"),
        (["--minutes", "1", "--seconds", "60"], "--minutes (MINUTES of make): give either"),
        (
            ["--soak", "--url", "http://127.0.0.1:80"],
            "--soak (SOAK of make): watches the processes of a service that it starts",
        ),
        (["--trace", "nowhere.xz"], "--trace (TRACE of make): there is no file nowhere.xz"),
        (["--trace", "nowhere.xz", "--keys", "4"], "--trace (TRACE of make): names the keys"),
    ],
)
def test_bad_input_names_its_argument(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_found_out_before_the_load(tmp_path: Path) -> None:
    parse(["--report", str(tmp_path / "new" / "load.html")]).check_report()
    assert list((tmp_path / "new").iterdir()) == []
    kept = tmp_path / "kept.html"
    kept.write_text("of the last run")
    parse(["--report", str(kept)]).check_report()
    assert kept.read_text() == "of the last run"
    with pytest.raises(Failed, match=r"the report .*/kept.html/load.html \(REPORT of make\) cannot be written: "):
        parse(["--report", str(kept / "load.html")]).check_report()
