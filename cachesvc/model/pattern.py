"""Patterns: globs over code points, anchored at both ends.

`*` any run, within or across segments; `?` one code point; `[abc]`, `[a-z]`, `[!a]` one of a set; `\\` takes the next
literally. Nothing else is special. This matcher decides everywhere; stores only prefilter by `prefix`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cachesvc.errors import InvalidInput
from cachesvc.model.keys import parse_name


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed glob: its text, its literal prefix, and the keys that it matches."""

    text: str
    prefix: str  # every match starts with it
    exact: bool  # nothing special in it: it matches `prefix` only
    _regex: re.Pattern[str] | None = field(repr=False, compare=False)  # None: it is `plain`

    @property
    def plain(self) -> bool:
        """Whether it is a prefix, with or without a star behind it: no other costs as little, to make and to match."""
        return self._regex is None

    def matches(self, key: str) -> bool:
        if self._regex is not None:
            return self._regex.fullmatch(key) is not None
        return key == self.prefix if self.exact else key.startswith(self.prefix)

    def covers(self, other: Pattern) -> bool:
        """Whether it matches all that the other does: they are the same, or it is a prefix and a star. In doubt it does not."""
        if self.text in ("*", other.text):
            return True
        return self.plain and not self.exact and other.prefix.startswith(self.prefix)


@dataclass(frozen=True, slots=True)
class Enumeration(Pattern):
    """What stands for a pattern where the keys are named one by one. Its text, which it is known by, is none of a client's."""

    keys: frozenset[str] = field(repr=False)

    def matches(self, key: str) -> bool:
        return key in self.keys


ENUMERATED = "\x1e"  # what the text of an enumeration begins with: no pattern has a control character
_NOTHING = re.compile("(?!)")
_SPECIAL = re.compile(r"[*?\[\\]")


def enumerate_keys(keys: Iterable[str], *, text: str) -> Enumeration:
    """Not none of them."""
    named = frozenset(keys)
    low, high = min(named), max(named)
    differs = (place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return Enumeration(text, low[: next(differs, len(low))], False, _NOTHING, named)


def parse_pattern(text: str, *, field: str = "pattern") -> Pattern:
    """A glob from outside; raises `InvalidInput` naming `field` for one that is too long, left open or ends in `\\`."""
    parse_name(text, field=field)
    pieces: list[str] = []
    prefix: list[str] = []
    literal = True
    i = 0
    while i < len(text):
        c = text[i]
        i += 1
        if c == "*":
            literal = False
            # an atomic group: without it `*a*a*a*` backtracks without bound on a long key
            while i < len(text) and text[i] == "*":
                i += 1
            pieces.append("*")
        elif c == "?":
            literal = False
            pieces.append("(?s:.)")
        elif c == "[":
            literal = False
            charset, i = _charset(text, i, field)
            pieces.append(charset)
        else:
            if c == "\\":
                if i == len(text):
                    raise InvalidInput(field, "ends in a lone '\\'")
                c = text[i]
                i += 1
            if literal:
                prefix.append(c)
            pieces.append(re.escape(c))
    plain = literal or (pieces[-1] == "*" and len(pieces) == len(prefix) + 1)
    return Pattern(text, "".join(prefix), literal, None if plain else re.compile(_linear(pieces), re.DOTALL))


def literal(text: str) -> str:
    """The part of a glob that matches the text and nothing else."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def _linear(pieces: list[str]) -> str:
    """A regex in which every run but the last takes the shortest match for good, so matching is never exponential."""
    runs: list[list[str]] = [[]]
    for piece in pieces:
        if piece == "*":
            runs.append([])
        else:
            runs[-1].append(piece)
    head, *rest = ("".join(run) for run in runs)
    if not rest:
        return head
    *middle, tail = rest
    return head + "".join(f"(?>.*?{part})" for part in middle) + ".*" + tail


def _charset(text: str, i: int, field: str) -> tuple[str, int]:
    """The set that starts after `[` at `i`, as a regex, and where it ends."""
    negated = i < len(text) and text[i] == "!"
    i += negated
    items: list[str] = []
    first = True
    while True:
        if i >= len(text):
            raise InvalidInput(field, "has a '[' that is never closed")
        c = text[i]
        i += 1
        if c == "]" and not first:
            break
        first = False
        low, i = _member(text, c, i, field)
        if i + 1 < len(text) and text[i] == "-" and text[i + 1] != "]":
            high, i = _member(text, text[i + 1], i + 2, field)
            if high < low:
                raise InvalidInput(field, f"has a range that runs backwards, {low}-{high}")
            items.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            items.append(re.escape(low))
    return f"[{'^' if negated else ''}{''.join(items)}]", i


def _member(text: str, c: str, i: int, field: str) -> tuple[str, int]:
    if c != "\\":
        return c, i
    if i >= len(text):
        raise InvalidInput(field, "has a '[' that is never closed")
    return text[i], i + 1
