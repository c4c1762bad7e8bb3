"""Changes as they are written down."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given

from cachesvc.model.change import MAX_RECORDED_VALUE, Change, Kind, pack_change, request_id, unpack_change
from tests.model.records import SAMPLES, changes

GOLDEN = json.loads((Path(__file__).parent / "golden" / "change-records.json").read_text())


def read_again(change: Change) -> Change:
    record, value = pack_change(change)
    return unpack_change(change.sequence, change.kind.value, change.key, record, value)


@given(changes())
def test_a_change_is_read_as_it_is_written(change: Change) -> None:
    assert read_again(change) == change


@pytest.mark.parametrize("name", SAMPLES)
def test_records_on_disk_stay_readable(name: str) -> None:
    """A file once written stays as it is: for another format add another beside it, and read both."""
    golden, change = GOLDEN[name], SAMPLES[name]
    value = bytes.fromhex(golden["value"]) if golden["value"] is not None else None
    assert unpack_change(golden["sequence"], golden["kind"], golden["key"], golden["record"].encode(), value) == change
    assert pack_change(change) == (golden["record"].encode(), value)


def test_there_is_a_record_on_disk_of_each_sample() -> None:
    assert GOLDEN.keys() == SAMPLES.keys()


@pytest.mark.parametrize(("size", "held"), [(0, True), (MAX_RECORDED_VALUE, True), (MAX_RECORDED_VALUE + 1, False)])
def test_a_large_value_is_left_to_the_entry(size: int, held: bool) -> None:
    written = SAMPLES["write"]
    assert written.entry is not None
    change = read_again(written._replace(entry=written.entry._replace(value=b"x" * size)))
    assert change.entry is not None
    assert (change.value_held, len(change.entry.value)) == (held, size if held else 0)
    assert change.entry.content_hash == written.entry.content_hash


def test_names_of_a_newer_version_are_passed_over() -> None:
    change = SAMPLES["write of everything"]
    record, value = pack_change(change)
    said = orjson.loads(record)
    said["z"] = {"new": 1}
    said["e"].append("new")
    assert unpack_change(change.sequence, "write", change.key, orjson.dumps(said), value) == change


def test_kinds_never_change_their_names() -> None:
    assert [kind.value for kind in Kind] == ["write", "delete", "fill", "expire", "invalidate", "retire", "publish", "revoke"]


def test_the_id_to_ask_with_again() -> None:
    assert request_id("0190aa", 3) == "0190aa-3"
