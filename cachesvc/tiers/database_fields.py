"""Indexed fields: what of a JSON value is found by `GET /v1/query`, and how it is written down.

What is stored and what is asked for go through the same two functions, so they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import orjson
import xxhash

from cachesvc.model.entry import Entry
from cachesvc.protocol.exact import read_value
from cachesvc.protocol.values import is_json

MAX_TEXT: Final = 256  # code points of a value kept as they are; a longer one ends in a checksum
MAX_VALUES: Final = 1_000  # of one field of one entry; what an array holds beyond is not found

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class Value(NamedTuple):
    """One value of a field: its type (`"s"`, `"n"`, `"b"` or `"null"`) and its text.

    Whole numbers of 64 bits are exact, others those of a double; all past its range are one, of either sign.
    """

    type: str
    text: str


@dataclass(frozen=True, slots=True)
class FieldIndex:
    """Which fields are indexed, how far each one that is being built has come, and which are to be dropped.

    It stands in the log's state and changes under the log's lock, so all nodes index the same fields, whatever their
    settings say.
    """

    ready: frozenset[str] = frozenset()
    building: dict[str, str] = field(default_factory=dict)  # the last key that was indexed, "" at the start
    dropped: frozenset[str] = frozenset()

    @property
    def written(self) -> frozenset[str]:
        """The fields that every write indexes."""
        return self.ready | self.building.keys()

    def changed_to(self, wanted: Collection[str]) -> FieldIndex:
        """The index with exactly the wanted fields: new ones are to be built, others dropped."""
        names = frozenset(wanted)
        building = {name: self.building.get(name, "") for name in sorted(names - self.ready)}
        return FieldIndex(self.ready & names, building, (self.dropped | self.written) - names)

    def pack(self) -> str:
        return orjson.dumps([sorted(self.ready), self.building, sorted(self.dropped)]).decode()


def unpack_index(text: str) -> FieldIndex:
    ready, building, dropped = orjson.loads(text)
    return FieldIndex(frozenset(ready), building, frozenset(dropped))


def values_of(entry: Entry, fields: Iterable[str]) -> set[tuple[str, Value]]:
    """The values of those dotted paths in an entry that holds JSON; of an array every element counts."""
    if entry.deleted or not is_json(entry.content_type):
        return set()
    document = read_value(entry.value)
    found = set()
    for name in fields:
        for count, leaf in enumerate(_leaves(document, name.split("."))):
            if count == MAX_VALUES:
                break
            found.add((name, _value(leaf)))
    return found


def meanings(text: str) -> set[Value]:
    """What a text from a query may stand for: the string, and the number, truth value or null that reads so."""
    meant = {Value("s", _bounded(text))}
    if text in ("true", "false"):
        meant.add(Value("b", text))
    elif text == "null":
        meant.add(Value("null", ""))
    elif _NUMBER.fullmatch(text):
        number = read_value(text.encode())
        meant |= {_value(number), _value(_written_otherwise(number))}
    return meant


def _leaves(document: object, path: list[str]) -> Iterator[object]:
    if isinstance(document, list):
        for element in document:
            yield from _leaves(element, path)
    elif path:
        if isinstance(document, dict) and path[0] in document:
            yield from _leaves(document[path[0]], path[1:])
    elif not isinstance(document, dict):
        yield document


def _value(leaf: object) -> Value:
    match leaf:
        case None:
            return Value("null", "")
        case bool():
            return Value("b", "true" if leaf else "false")
        case float() if leaf.is_integer() and abs(leaf) < 2**53:
            return Value("n", str(int(leaf)))
        case int() | float():
            return Value("n", repr(leaf))
        case _:
            return Value("s", _bounded(str(leaf)))


def _written_otherwise(number: int | float) -> int | float:
    """The same number as JSON may have it, too: 1e16 is 10000000000000000."""
    if isinstance(number, float):
        return int(number) if number.is_integer() and abs(number) < 2**64 else number
    return float(number) if number == float(number) else number


def _bounded(text: str) -> str:
    """The text, short enough for an index and free of NUL, which PostgreSQL does not keep."""
    if len(text) <= MAX_TEXT and "\0" not in text:
        return text
    return text[: MAX_TEXT - 32].replace("\0", "") + xxhash.xxh3_128_hexdigest(text.encode())
