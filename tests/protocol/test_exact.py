"""JSON kept as it was written."""

from __future__ import annotations

import contextlib
import json
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.protocol.exact import MAX_MEMBERS, RawJson, check_json, parts, read_object, read_value

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20)


@given(values, st.booleans(), st.sampled_from([None, 1, "\t"]), st.dictionaries(st.sampled_from("abcd"), values))
def test_the_raw_member_is_the_text_that_was_sent(
    value: object, escaped: bool, indent: int | None, others: dict[str, object]
) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    rest = "".join(f" , {json.dumps(name)}\n:{json.dumps(other)}" for name, other in others.items())
    members = read_object(f'\t{{ "value" : {text}{rest} }}\r\n'.encode(), parts("value"))
    assert members.pop("value") == RawJson(text.encode())
    assert list(members) == list(others)


@given(st.lists(values))
def test_the_raw_members_of_each(items: list[object]) -> None:
    texts = [json.dumps(item) for item in items]
    each = " , ".join(f'{{"value":{text} }}' for text in texts)
    body = f'{{"each": [{each}]}}'
    expected = {"each": [{"value": text.encode()} for text in texts]}
    read = parts("value", within=("each",))
    assert read_object(body.encode(), read) == expected
    assert read_object(f'{{"each": {body}}}'.encode(), read) == {"each": expected}


@given(values)
def test_json_is_accepted(value: object) -> None:
    check_json(json.dumps(value).encode())


@given(st.binary(max_size=30))
def test_only_json_is_accepted(text: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        check_json(text)
        json.loads(text)
    with contextlib.suppress(InvalidInput):
        read_object(text, parts("value"))


@pytest.mark.parametrize("text", [b"1e400", b"[-1E+999]", b"1" * 5000, b'{"a":[1e999,"\\ud83d\\ude00"]}', b"-0", b"1E5"])
def test_numbers_of_any_size_are_json(text: bytes) -> None:
    check_json(text)


@pytest.mark.parametrize(
    "text", [b"1e400 x", b"[1e400,]", b"[1e400,Infinity]", b'[1e400,"\\udc00"]', b"01", b"1.", b".5", b"+1"]
)
def test_what_is_not_json(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="is not JSON"):
        check_json(text)


@pytest.mark.parametrize("size", [501, 1 << 19])
def test_a_string_that_never_ends_is_walked_over_once(size: int) -> None:
    """Were it looked at from each quote in it, the longer one would take hours."""
    for inside in (b"[", b'\\"'):
        with pytest.raises(InvalidInput, match="is not JSON"):
            check_json(b"[" * 500 + b'"[' + inside * size)


def test_of_an_object_that_is_read_by_its_members_there_are_so_many() -> None:
    """A megabyte of them took a third of a second; what is kept as it is may have any number."""
    text = json.dumps({str(number): 1 for number in range(MAX_MEMBERS + 1)})
    with pytest.raises(InvalidInput, match="over 1000 members"):
        read_object(text.encode(), parts("value"))
    assert read_object(b'{"value":%b}' % text.encode(), parts("value")) == {"value": text.encode()}


def test_a_member_given_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'a' is given twice"):
        read_object(b'{"a":1,"a":2}', parts("value"))


def test_a_value_is_read_with_doubles_for_numbers() -> None:
    assert read_value(b'{"a":[1e309,-1e309,99999999999999999999,7,1.5]}') == {"a": [inf, -inf, 1e20, 7, 1.5]}
    assert read_value(b'[1e309,"\\udc00"]') is None
    assert read_value(b"[1e309,Infinity]") is None
    assert read_value(b"[1e309") is None


@pytest.mark.parametrize(("items", "exact"), [(3, True), (4, False)])
def test_an_array_of_more_than_anybody_takes_is_not_read_item_by_item(items: int, exact: bool) -> None:
    body = b'{"updates":[%s]}' % b",".join([b'{"value":1.50}'] * items)
    read = read_object(body, parts("value", within=("updates",)).up_to(3))
    updates = read["updates"]
    assert isinstance(updates, list)
    assert (len(updates), {isinstance(update["value"], RawJson) for update in updates}) == (items, {exact})
