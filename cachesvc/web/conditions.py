"""Conditions: what request headers ask of a read or a write (RFC 9110, 9111).

A condition that is not understood is refused, never dropped: the request would do what its sender meant to prevent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from cachesvc.engine.answers import ANY, Want
from cachesvc.errors import InvalidInput
from cachesvc.model.change import ABSENT, PRESENT
from cachesvc.model.position import MAX_SEQ, Position, Version, parse_position

Headers = Mapping[str, str]

_TAG: Final = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|$)')
_DIRECTIVE: Final = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:=(?:"([^"]*)"|([^",\s]*)))?')
_MAX_TAGS: Final = 100
MAX_IDEMPOTENCY_KEY: Final = 255
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


class Expectation(NamedTuple):
    """Which version an entry must have to be written: any of `versions`, `(ABSENT,)`, `(PRESENT,)`, or () for no matter."""

    versions: tuple[Version, ...] = ()
    token: Position | None = None


def wanted(headers: Headers) -> Want:
    """How a read is to be answered: `Cache-Control` directives of the request, and `Min-Version`."""
    control = headers.get("cache-control")
    least = headers.get("min-version")
    if control is None and least is None:
        return ANY
    directives = {m[1].lower(): m[2] if m[2] is not None else m[3] for m in _DIRECTIVE.finditer(control or "")}
    return Want(
        fresh="no-cache" in directives,
        only_cached="only-if-cached" in directives,
        max_stale=_max_stale(directives["max-stale"]) if "max-stale" in directives else 0.0,
        min_version=_version(least, "Min-Version") if least is not None else None,
    )


def expectation(headers: Headers) -> Expectation:
    """What a write demands: `If-Match`, `If-None-Match: *`, `Fill-Token`."""
    match, none_match, token = headers.get("if-match"), headers.get("if-none-match"), headers.get("fill-token")
    versions: tuple[Version, ...] = ()
    if none_match is not None:
        if none_match.strip() != "*":
            raise InvalidInput("If-None-Match", "must be * on a write")
        if match is not None:
            raise InvalidInput("If-None-Match", "cannot be met together with If-Match")
        versions = (ABSENT,)
    elif match is not None:
        versions = (PRESENT,) if match.strip() == "*" else _versions(match)
    return Expectation(versions, parse_position(token, field="Fill-Token") if token is not None else None)


def unchanged(headers: Headers, version: Version) -> bool:
    """Whether `If-None-Match` says that the client has this version already. Weak tags count (RFC 9110, 13.1.2)."""
    text = headers.get("if-none-match")
    if text is None:
        return False
    return text.strip() == "*" or any(tag == str(version) for _, tag in _tags(text, "If-None-Match"))


def idempotency_key(headers: Headers) -> str:
    """The `Idempotency-Key`, "" when there is none."""
    key = headers.get("idempotency-key")
    if key is None:
        return ""
    if len(key) > MAX_IDEMPOTENCY_KEY or not _VISIBLE.fullmatch(key):
        raise InvalidInput("Idempotency-Key", f"must be 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters")
    return key


def _versions(text: str) -> tuple[Version, ...]:
    versions = []
    for weak, tag in _tags(text, "If-Match"):
        if weak:
            raise InvalidInput("If-Match", "has a weak tag, which never matches")
        if not tag.strip("0"):
            raise InvalidInput("If-Match", "has no version of an entry: they start at 1")
        versions.append(_version(tag, "If-Match"))
    return tuple(versions)


def _tags(text: str, field: str) -> list[tuple[bool, str]]:
    """The entity tags of a list, each with whether it is weak."""
    tags: list[tuple[bool, str]] = []
    end = 0
    while end < len(text):
        found = _TAG.match(text, end)
        if found is None or len(tags) == _MAX_TAGS:
            break
        tags.append((found[1] is not None, found[2]))
        end = found.end()
    if not tags or end < len(text) or text.rstrip().endswith(","):
        raise InvalidInput(field, f'must be * or a list of up to {_MAX_TAGS} versions in quotes, like "42"')
    return tags


def _version(text: str, field: str) -> Version:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_SEQ):
        raise InvalidInput(field, "is not a version (a whole number)")
    return Version(int(text))


def _max_stale(text: str | None) -> float:
    """Seconds; without a number any staleness will do. One that cannot be read allows none (RFC 9111, 4.2.1)."""
    if text is None:
        return math.inf
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 16 else 0.0
