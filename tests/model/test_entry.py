"""Entries: life, weight, content hash, and the details as they are written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.entry import JSON, Entry, content_hash, pack_details, tombstone, with_details
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from tests.model.records import FULL, PLAIN, entries

GOLDEN = json.loads((Path(__file__).parent / "golden" / "entry-details.json").read_text())
SAMPLES = {"nothing": PLAIN, "everything": FULL, "tags": PLAIN._replace(tags=("a",))}


def bare(entry: Entry) -> Entry:
    return Entry(*entry[:9])


@given(entries)
def test_details_are_read_as_they_are_written(entry: Entry) -> None:
    assert with_details(bare(entry), pack_details(entry)) == entry


def test_no_details_are_no_bytes() -> None:
    assert pack_details(PLAIN) == b""
    assert with_details(PLAIN, b"") is PLAIN


def test_names_of_a_newer_version_are_passed_over() -> None:
    assert with_details(PLAIN, b'{"z":[1],"t":["a"],"":null}') == PLAIN._replace(tags=("a",))


@pytest.mark.parametrize("name", SAMPLES)
def test_details_on_disk_stay_readable(name: str) -> None:
    """A file once written stays as it is: for another format add another beside it, and read both."""
    assert with_details(bare(SAMPLES[name]), GOLDEN[name].encode()) == SAMPLES[name]
    assert pack_details(SAMPLES[name]).decode() == GOLDEN[name]


def test_it_lives_until_the_end_of_its_life() -> None:
    entry = PLAIN._replace(expires_at=100.0)
    assert entry.live(99.999)
    assert not entry.live(100.0)
    assert not entry.live(101.0)


def test_without_an_end_it_lives_on() -> None:
    assert PLAIN._replace(expires_at=None).live(1e12)


def test_a_tombstone_never_lives() -> None:
    dead = tombstone(Key("a"), Version(7), now=100.0, keep=50.0)
    assert (dead.version, dead.value, dead.deleted, dead.expires_at) == (7, b"", True, 150.0)
    assert not dead.live(100.0)
    assert not dead.live(0.0)


def test_it_weighs_what_it_carries() -> None:
    assert PLAIN._replace(value=b"x" * 1_000).size - PLAIN._replace(value=b"").size == 1_000
    assert PLAIN._replace(tags=("abc", "de"), parents=("f" * 100,)).size - PLAIN.size == 105
    assert PLAIN._replace(value=b"").size > len(PLAIN.key)


def test_the_hash_of_a_content_never_changes() -> None:
    assert content_hash(JSON, b"1").hex() == GOLDEN["content hash of JSON 1"]


@given(st.text(max_size=5), st.binary(max_size=5), st.text(max_size=5), st.binary(max_size=5))
def test_equal_hashes_are_equal_contents(type_a: str, a: bytes, type_b: str, b: bytes) -> None:
    # a content type has no NUL; what comes in from outside is checked for it
    if "\0" not in type_a + type_b:
        assert (content_hash(type_a, a) == content_hash(type_b, b)) is ((type_a, a) == (type_b, b))
