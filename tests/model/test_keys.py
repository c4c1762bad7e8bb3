"""Keys: what is one, its module, its partition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.model.keys import MAX_KEY_BYTES, PARTITIONS, Key, module_of, parse_key, partition_of

CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]


@pytest.mark.parametrize("raw", ["a", "task:42", "a/b c%d", "🎈" * 128, "k" * 512, "*?[x]\\", " ", "{17}", "\u2028"])
def test_these_are_keys(raw: str) -> None:
    assert parse_key(raw) == raw
    assert parse_key(raw.encode()) == raw


@pytest.mark.parametrize("raw", ["", "k" * 513, "🎈" * 129, b"", b"k" * 513, ("🎈" * 128 + "x").encode()])
def test_a_key_has_1_to_512_bytes(raw: str | bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^key: has \d+ bytes; allowed are 1 to 512$"):
        parse_key(raw)


@pytest.mark.parametrize("raw", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", "\ud800"])
def test_a_key_is_utf8(raw: str | bytes) -> None:
    with pytest.raises(InvalidInput, match="is not UTF-8"):
        parse_key(raw)


@pytest.mark.parametrize("code", CONTROLS)
def test_a_key_has_no_control_character(code: int) -> None:
    for raw in (f"a{chr(code)}b", chr(code), f"a{chr(code)}"):
        with pytest.raises(InvalidInput, match="has a control character"):
            parse_key(raw)


def test_the_error_names_the_field() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_key("", field="operations[3].key")
    assert caught.value.field == "operations[3].key"


@given(st.text())
def test_a_text_is_a_key_or_named_an_error(raw: str) -> None:
    try:
        key = parse_key(raw)
    except InvalidInput:
        size = len(raw.encode("utf-8", "surrogatepass"))
        surrogate = any(0xD800 <= ord(c) < 0xE000 for c in raw)
        assert not 1 <= size <= MAX_KEY_BYTES or surrogate or any(ord(c) in CONTROLS for c in raw)
    else:
        assert key == raw == parse_key(raw.encode())


@pytest.mark.parametrize(
    ("key", "module"), [("task:42", "task"), ("dashboard:tasks:done", "dashboard"), ("plain", "plain"), (":x", "")]
)
def test_the_first_segment_names_the_module(key: str, module: str) -> None:
    assert module_of(Key(key)) == module


def test_partitions_never_move() -> None:
    """Entries in Redis are where an older node put them."""
    assert [partition_of(Key(key)) for key in ("task:1", "task:2", "🎈", "dashboard:tasks:done")] == [22, 46, 6, 47]


def test_keys_spread_over_all_partitions() -> None:
    count = [0] * PARTITIONS
    for i in range(64_000):
        count[partition_of(Key(f"task:{i}"))] += 1
    assert min(count) > 800
    assert max(count) < 1_200
