"""JSON whose values stay as they were written: checked, but neither rounded nor rendered anew.

A number is never read by way of a float on its way into the store: `value` is kept as the text that was sent.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final, NoReturn

import orjson

from cachesvc.errors import InvalidInput

MAX_MEMBERS: Final = 1_000  # of an object that is read member by member: no request or message has near as many
MAX_NESTING: Final = 500  # levels of arrays and objects in a value; every JSON reader in use goes as deep

_SPACE: Final = re.compile(r"[ \t\r\n]*")
# one that never ends goes up to the end, and nothing in it is looked at again: what is no JSON is walked over once, too
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_STRINGS: Final = re.compile(_STRING, re.DOTALL)
_TEXTS: Final = re.compile(_STRING.decode(), re.DOTALL)
_STEPS: Final = re.compile(_STRING.decode() + r"|[\[{]|(?P<out>[\]}])", re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_LEVELS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class RawJson(bytes):
    """A JSON text, UTF-8, as it was sent."""


def check_json(text: bytes, *, field: str = "body") -> None:
    """Raises `InvalidInput` (malformed), with the place, for what is not one JSON value.

    Numbers of any size pass; nesting deeper than `MAX_NESTING` levels and lone surrogates do not.
    """
    _check_syntax(text, field)
    check_nesting(text, field=field)


def check_nesting(text: bytes, *, field: str) -> None:
    """Raises `InvalidInput` (malformed) for JSON nested deeper than `MAX_NESTING` levels."""
    if text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        return
    brackets = _STRINGS.sub(b"", text).translate(None, _NO_BRACKETS)
    if max(accumulate(map(_LEVELS.__getitem__, brackets)), default=0) > MAX_NESTING:
        raise InvalidInput(field, f"is nested deeper than the limit of {MAX_NESTING} levels", malformed=True)


def _check_syntax(text: bytes, field: str) -> None:
    try:
        orjson.loads(text)  # goes 1,024 levels deep
    except orjson.JSONDecodeError as wrong:
        if not _valid_but_for_large_numbers(text):
            check_nesting(text, field=field)  # tells more, where that is why
            raise _malformed(field, wrong) from None


@dataclass(frozen=True, slots=True)
class Parts:
    """How the members of an object are read: those named in `raw` as `RawJson`; in those named in `within`, be they an object
    or an array of objects, members the same way; all others decoded.

    An array of over `most` objects is decoded as it is: whoever says how many there may be refuses it, and looks at its length.
    """

    raw: frozenset[str]
    within: frozenset[str] = frozenset()
    most: int | None = None

    def up_to(self, most: int) -> Parts:
        """The same, of so many objects in an array."""
        return replace(self, most=most)


def parts(*raw: str, within: tuple[str, ...] = ()) -> Parts:
    """The parts of a body, by name."""
    return Parts(frozenset(raw), frozenset(within))


def read_object(body: bytes, read: Parts, *, field: str = "body") -> dict[str, object]:
    """The members of a JSON object, read as `read` says.

    How deep a raw member is nested is left to who uses it, up to what cannot be read at all (1,024 levels in the whole).
    Raises `InvalidInput`.
    """
    _check_syntax(body, field)
    text = body.decode()
    start = _skip(text, 0)
    if text[start] != "{":
        raise InvalidInput(field, "is not a JSON object")
    try:
        members, _ = _object(text, start, read)
    except json.JSONDecodeError as wrong:
        raise _malformed(field, wrong) from None
    except RecursionError:
        raise InvalidInput(field, f"is nested deeper than the limit of {MAX_NESTING} levels", malformed=True) from None
    return members


def read_message(text: str) -> dict[str, Any]:
    """The members of a frame, numbers as Python has them. Raises `InvalidInput` (malformed) for what is no JSON object."""
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        return read_object(text.encode(), parts(), field="message")  # numbers too large for orjson, or what is wrong
    if not isinstance(members, dict):
        raise InvalidInput("message", "is not a JSON object", malformed=True)
    return members


def read_value(text: bytes) -> Any:
    """What a JSON text says, numbers as orjson reads them, and those past the range of a double infinite; None for no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _DOUBLES.decode(text.decode()) if _valid_but_for_large_numbers(text) else None


def check_members(text: str, *, field: str) -> None:
    """Raises `InvalidInput` (malformed) where an object of a JSON text has a member twice: readers differ in which counts."""
    try:
        _ONCE.decode(text)
    except json.JSONDecodeError as wrong:
        raise InvalidInput(field, f"is not JSON: {wrong.msg}", malformed=True) from None
    except RecursionError:
        raise InvalidInput(field, f"is nested deeper than the limit of {MAX_NESTING} levels", malformed=True) from None


def find_text(text: str, name: str) -> str | None:
    """The text that the outermost object has as a member of that name, the last one, where the whole cannot be read.

    Each character is looked at once, however deep it is nested. None where there is none that could be told again.
    """
    found: str | None = None
    level = at = 0
    for member in re.finditer(rf'"{re.escape(name)}"[ \t\r\n]*+:[ \t\r\n]*+({_STRING.decode()})', text, re.DOTALL):
        brackets = _TEXTS.sub("", text[at : member.start()])
        level += brackets.count("{") + brackets.count("[") - brackets.count("}") - brackets.count("]")
        at = member.end()
        if level == 1:
            found = member[1]
    if found is None:
        return None
    try:
        told: str = _DECODER.decode(found)
        told.encode()  # a lone surrogate cannot be told
    except ValueError:
        return None
    return told


# What these walk over has been checked: between the parts that are looked for there is nothing but space.


def _object(text: str, start: int, read: Parts) -> tuple[dict[str, object], int]:
    """The object whose brace is at `start`, and where it ends."""
    members: dict[str, object] = {}
    i = _skip(text, start + 1)
    while text[i] != "}":
        at = i
        name, i = _DECODER.raw_decode(text, i)
        if name in members:
            raise json.JSONDecodeError(f"the member {name!r} is given twice", text, at)
        if len(members) == MAX_MEMBERS:
            raise json.JSONDecodeError(f"an object has over {MAX_MEMBERS} members", text, at)
        i = _skip(text, _skip(text, i) + 1)
        value: object
        if name in read.raw:
            end = _end(text, i)
            value = RawJson(text[i:end].encode())
        elif name in read.within and text[i] == "[":
            value, end = _array(text, i, read)
        elif name in read.within and text[i] == "{":
            value, end = _object(text, i, read)
        else:
            value, end = _DECODER.raw_decode(text, i)
        members[name] = value
        i = _past_comma(text, end)
    return members, i + 1


def _array(text: str, start: int, read: Parts) -> tuple[list[object], int]:
    items: list[object] = []
    i = _skip(text, start + 1)
    while text[i] != "]":
        if len(items) == read.most:
            every: tuple[list[object], int] = _DECODER.raw_decode(text, start)
            return every
        item, end = _object(text, i, read) if text[i] == "{" else _DECODER.raw_decode(text, i)
        items.append(item)
        i = _past_comma(text, end)
    return items, i + 1


def _end(text: str, start: int) -> int:
    """Where the value at `start` ends, however deep it is nested."""
    if text[start] not in "[{":
        return _DECODER.raw_decode(text, start)[1]
    level = 0
    for step in _STEPS.finditer(text, start):
        if step["out"]:
            level -= 1
            if not level:
                return step.end()
        elif text[step.start()] != '"':
            level += 1
    raise json.JSONDecodeError("a value does not end", text, start)


def _past_comma(text: str, i: int) -> int:
    i = _skip(text, i)
    return _skip(text, i + 1) if text[i] == "," else i


def _skip(text: str, i: int) -> int:
    found = _SPACE.match(text, i)
    return found.end() if found else i


def _integer(text: str) -> int | float:
    # int() refuses very long texts and is slow for long ones; no member that is read as a number needs more
    return int(text) if len(text) <= 20 else float(text)


def _double(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return float(text)


def _no_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _once(members: list[tuple[str, Any]]) -> None:
    if len(members) != len(dict(members)):
        [(twice, _)] = Counter(name for name, _ in members).most_common(1)
        raise json.JSONDecodeError(f"the member {twice!r} is given twice", "", 0)


_ONCE: Final = json.JSONDecoder(object_pairs_hook=_once, parse_int=len, parse_float=len)
_DECODER: Final = json.JSONDecoder(parse_int=_integer)
_DOUBLES: Final = json.JSONDecoder(parse_int=_double, parse_float=_double)
_WITHOUT_NUMBERS: Final = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_no_constant)


def _valid_but_for_large_numbers(text: bytes) -> bool:
    """orjson reads numbers as doubles and refuses those past their range; JSON does not."""
    try:
        json.dumps(_WITHOUT_NUMBERS.decode(text.decode()), ensure_ascii=False).encode()  # refuses lone surrogates
    except (ValueError, RecursionError):
        return False
    return True


def _malformed(field: str, wrong: json.JSONDecodeError) -> InvalidInput:
    return InvalidInput(field, f"is not JSON: {wrong.msg} (line {wrong.lineno}, column {wrong.colno})", malformed=True)
