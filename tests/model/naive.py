"""The model over again, as plainly as it can be said: what the tests compare the real one with."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

Matcher = Callable[[str], bool]


def digits_written(number: Fraction) -> int | None:
    """How many digits the number has when it is written out exactly; None where that never ends (or is very long)."""
    places = 0
    while number.denominator != 1:
        number *= 10
        places += 1
        if places > 1_000:
            return None
    return len(str(abs(number.numerator) // 10**places)) + places


def tokens_of(pattern: str) -> list[str | Matcher] | None:
    """A glob as a list of `"*"` and tests of one character; None for one that is not well formed."""
    tokens: list[str | Matcher] = []
    rest = list(pattern)
    while rest:
        c = rest.pop(0)
        if c == "*":
            tokens.append("*")
        elif c == "?":
            tokens.append(lambda _: True)
        elif c == "[":
            one_of = _set_of(rest)
            if one_of is None:
                return None
            tokens.append(one_of)
        else:
            if c == "\\":
                if not rest:
                    return None
                c = rest.pop(0)
            tokens.append(c.__eq__)
    return tokens


def _set_of(rest: list[str]) -> Matcher | None:
    """The set whose text begins at `rest`, which is used up to behind its `]`."""
    negated = rest[:1] == ["!"]
    if negated:
        rest.pop(0)
    members: list[tuple[str, str]] = []
    started = False
    while rest:
        c = rest.pop(0)
        if c == "]" and started:
            return lambda x: any(low <= x <= high for low, high in members) != negated
        started = True
        if c == "\\":
            if not rest:
                return None
            c = rest.pop(0)
        low = high = c
        if len(rest) >= 2 and rest[0] == "-" and rest[1] != "]":
            rest.pop(0)
            high = rest.pop(0)
            if high == "\\":
                if not rest:
                    return None
                high = rest.pop(0)
            if high < low:
                return None
        members.append((low, high))
    return None


def matches(tokens: list[str | Matcher], key: str) -> bool:
    """Whether the whole key is matched, by trying everything."""
    if not tokens:
        return not key
    first, rest = tokens[0], tokens[1:]
    if isinstance(first, str):
        return any(matches(rest, key[i:]) for i in range(len(key) + 1))
    return bool(key) and first(key[0]) and matches(rest, key[1:])
