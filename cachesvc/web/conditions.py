"""Conditions: what request headers ask of a read or a write (RFC 9110, 9111).

A condition that cannot be read is refused, never dropped: the request would do what its sender meant to prevent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from cachesvc.engine.answers import ANY, Want
from cachesvc.errors import InvalidInput, Refusal, Refused
from cachesvc.model.change import ABSENT, PRESENT
from cachesvc.model.position import MAX_SEQ, Position, Version, parse_position

Headers = Mapping[str, str]

_TAG: Final = re.compile(r'[ \t]*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|\Z)')  # an empty element is allowed
_DIRECTIVE: Final = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:=(?:"([^"]*)"|([^",\s]*)))?')
_OURS: Final = re.compile(r"[1-9][0-9]{0,15}")
_MAX_TAGS: Final = 100
MAX_IDEMPOTENCY_KEY: Final = 255
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
NEVER: Final = Version(-2)  # the version that no entry has
_NAMED: Final = 10  # versions that a message names


class Expectation(NamedTuple):
    """Which version an entry must have to be written: one `among` those named (None: any), and none of `but_not`.

    `ABSENT` stands for no entry, `PRESENT` for any. With nothing in `among`, nothing meets the conditions.
    """

    among: frozenset[Version] | None = None
    but_not: frozenset[Version] = frozenset()
    token: Position | None = None

    @property
    def given(self) -> bool:
        return self.among is not None or bool(self.but_not)

    @property
    def single(self) -> Version | None:
        """The one version to compare with, where that says it all."""
        if self.but_not or self.among is None or len(self.among) > 1:
            return None
        return next(iter(self.among), NEVER)

    def met_by(self, current: Version) -> bool:
        if current in self.but_not:
            return False
        return self.among is None or current in self.among or (current != ABSENT and PRESENT in self.among)

    def unmet(self, current: Version, *, replayed: bool = False) -> Refused:
        """The refusal to a version that does not meet it."""
        found = "absent" if current == ABSENT else f"at version {current}"
        if current in self.but_not:
            wanted = "at another version"
        elif self.among and PRESENT not in self.among:
            some = sorted(self.among)
            more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
            wanted = f"at one of the versions {', '.join(map(str, some[:_NAMED]))}{more}"
        else:
            wanted = "present" if self.among else "at a version that no entry has"
        reason = f"was expected {wanted}, and is {found}"
        return Refused(Refusal.VERSION_CONFLICT, "key", reason, current=current, replayed=replayed)


def wanted(headers: Headers) -> Want:
    """How a read is to be answered: `Cache-Control` directives of the request, and `Min-Version`."""
    control = headers.get("cache-control")
    least = headers.get("min-version")
    if control is None and least is None:
        return ANY
    directives = _directives(control or "")
    return Want(
        fresh="no-cache" in directives,
        only_cached="only-if-cached" in directives,
        max_stale=_max_stale(directives["max-stale"]) if "max-stale" in directives else 0.0,
        min_version=_version(least, "Min-Version") if least is not None else None,
    )


def oldest_wanted(headers: Headers) -> float:
    """How many seconds ago an entry may have been written: `max-age`. One that cannot be read allows none."""
    control = headers.get("cache-control")
    if control is None or "max-age" not in (directives := _directives(control)):
        return math.inf
    return _seconds(directives["max-age"])


def expectation(headers: Headers) -> Expectation:
    """What a write demands: `If-Match`, `If-None-Match`, `Fill-Token`; all must hold."""
    match, none_match, token = headers.get("if-match"), headers.get("if-none-match"), headers.get("fill-token")
    among = _versions(match, "If-Match", weakly=False) if match is not None else None
    but_not: frozenset[Version] = frozenset()
    if none_match is not None:
        but_not = _versions(none_match, "If-None-Match", weakly=True)
        if PRESENT in but_not:
            among, but_not = frozenset((ABSENT,)) if among is None else frozenset(), frozenset()
        elif among is not None and PRESENT not in among:
            among, but_not = among - but_not, frozenset()
    return Expectation(among, but_not, parse_position(token, field="Fill-Token") if token is not None else None)


def required(headers: Headers) -> Expectation:
    """What a read demands of what it finds: `If-Match`. It goes before `unchanged` (RFC 9110, 13.2.2)."""
    match = headers.get("if-match")
    return Expectation(_versions(match, "If-Match", weakly=False) if match is not None else None)


def unchanged(headers: Headers, version: Version) -> bool:
    """Whether `If-None-Match` says that the client has this version already. Weak tags count (RFC 9110, 13.1.2)."""
    text = headers.get("if-none-match")
    return text is not None and not {PRESENT, version}.isdisjoint(_versions(text, "If-None-Match", weakly=True))


def idempotency_key(headers: Headers) -> str:
    """The `Idempotency-Key`, "" when there is none."""
    key = headers.get("idempotency-key")
    if key is None:
        return ""
    if len(key) > MAX_IDEMPOTENCY_KEY or not _VISIBLE.fullmatch(key):
        raise InvalidInput("Idempotency-Key", f"must be 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters")
    return key


def _versions(text: str, field: str, *, weakly: bool) -> frozenset[Version]:
    """The versions that the tags of a list name, `PRESENT` for *. A tag that was never ours is well-formed, and names none."""
    if text.strip(" \t") == "*":
        return frozenset((PRESENT,))
    versions: set[Version] = set()
    elements = tags = end = 0
    while end < len(text) and elements < _MAX_TAGS:
        found = _TAG.match(text, end)
        if found is None:
            break
        weak, tag = found.groups()
        if tag is not None:
            tags += 1
            if (weakly or weak is None) and _OURS.fullmatch(tag):
                versions.add(Version(int(tag)))
        elements += 1
        end = found.end()
    if not tags or end < len(text):
        raise InvalidInput(field, f'must be * or a list of up to {_MAX_TAGS} entity tags, like "42"')
    return frozenset(versions)


def _directives(control: str) -> dict[str, str | None]:
    """The directives of a `Cache-Control` header by lower-case name, each with its argument."""
    return {m[1].lower(): m[2] if m[2] is not None else m[3] for m in _DIRECTIVE.finditer(control)}


def _version(text: str, field: str) -> Version:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_SEQ):
        raise InvalidInput(field, "is not a version (a whole number)")
    return Version(int(text))


def _max_stale(text: str | None) -> float:
    """Seconds; without a number any staleness will do. One that cannot be read allows none (RFC 9111, 4.2.1)."""
    return math.inf if text is None else _seconds(text)


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 300 else 0.0
