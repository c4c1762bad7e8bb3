"""Merging: what becomes of versions of one entry that were made without knowing each other. Pure.

The rule that must not break: it looks at the versions as a set and puts them into one total order, so that whoever settles the
same versions by the same policy, wherever and in whatever order they came, settles them alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

import orjson
import xxhash

from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.moments import parse_moment

ConflictType = Literal["version", "data", "schema"]


class Strategy(StrEnum):
    """How a conflict is settled. Fixed on the wire and on disk: add, never rename."""

    LAST_WRITE_WINS = "last-write-wins"
    FIELD_LEVEL = "field-level"
    TIMESTAMP = "timestamp"
    PRIORITY = "priority"
    MANUAL = "manual"


class Policy(NamedTuple):
    """How conflicts of a module are settled.

    `otherwise` is for what cannot be merged by field: `LAST_WRITE_WINS` or `MANUAL`. `sources` are ranked, the first wins.
    `time_field` is the member of the value that says when it was made, where it has one.
    """

    strategy: Strategy = Strategy.LAST_WRITE_WINS
    otherwise: Strategy = Strategy.LAST_WRITE_WINS
    sources: tuple[str, ...] = ()
    time_field: str = "updatedAt"


def fingerprint(policies: Mapping[str, Policy]) -> str:
    """The same for whoever settles all conflicts alike. `policies` are by module; "" is for those that have none of their own.

    What says no more than what goes without saying is left out: a later version may have more to say.
    """
    plain = policies.get("", Policy())
    said = {name: _unusual(policy) for name, policy in policies.items() if policy != plain} | {"": _unusual(plain)}
    return xxhash.xxh3_64_hexdigest(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))


def _unusual(policy: Policy) -> dict[str, object]:
    usual = Policy()._asdict()
    return {name: value for name, value in policy._asdict().items() if value != usual[name]}


class Sibling(NamedTuple):
    """A version. `value` is None where it says that the entry is deleted; `at` is when it was written, in Unix seconds.

    `version` tells versions of the same time apart: the later has the higher one.
    """

    value: bytes | None
    at: float
    version: int
    source: str = ""
    content_type: str = JSON


def sibling_of(entry: Entry) -> Sibling:
    """What an entry holds, as a version."""
    value = None if entry.deleted else entry.value
    return Sibling(value, entry.updated_at, entry.version, entry.source, entry.content_type)


class Merged(NamedTuple):
    """Values merged field by field: the result, and the fields that more than one version changed, to different values."""

    value: bytes
    clashes: tuple[str, ...]
    rejected: frozenset[int]  # places of the versions that lost a field


class Settlement(NamedTuple):
    """How a conflict is settled; with `manual` the value is what stands until somebody has decided.

    `winner` is the version that stands as it was written, None where the value was merged.
    """

    strategy: Strategy
    conflict_type: ConflictType
    value: bytes | None
    winner: Sibling | None
    accepted: tuple[Sibling, ...]
    rejected: tuple[Sibling, ...]
    clashes: tuple[str, ...] = ()

    @property
    def manual(self) -> bool:
        return self.strategy is Strategy.MANUAL


MOST_MERGED: Final = 64 << 10  # bytes of a value that is merged by field: of a larger one the log holds no base
DEEPEST: Final = 32  # objects within each other; what is deeper is one field
NOTHING: Final = Sibling(None, 0.0, 0)  # the base of what was made from nothing


def settle(policy: Policy, siblings: Iterable[Sibling], *, base: Sibling | None, now: float) -> Settlement:
    """Settle two versions or more. `base` is what all of them were made from, None where that is not known any more.

    No version counts as made later than `now`, whatever it says of itself.
    """
    all_of_them = in_order(siblings)
    merged = merge_fields(base, all_of_them) if base is not None else None
    return settle_merged(policy, all_of_them, merged, based=base is not None, now=now)


def in_order(siblings: Iterable[Sibling]) -> list[Sibling]:
    """Each once, the latest last."""
    return sorted(set(siblings), key=_order)


def settle_merged(
    policy: Policy, all_of_them: Sequence[Sibling], merged: Merged | None, *, based: bool, now: float | None
) -> Settlement:
    """Settle versions that are in order, and merged by field where they can be; `based`: what they were made from is known.

    Where `now` is None, no version counts as made later than it was written.
    """
    kind = _type_of(all_of_them, merged, based=based)
    strategy = policy.strategy
    if len({_content(one) for one in all_of_them}) == 1 and strategy is Strategy.MANUAL:
        strategy = Strategy.LAST_WRITE_WINS  # there is nothing to decide
    if strategy is Strategy.FIELD_LEVEL:
        if merged is not None and (not merged.clashes or policy.otherwise is not Strategy.MANUAL):
            return _merged(strategy, kind, merged, all_of_them)
        strategy = policy.otherwise
        if merged is not None:
            return _merged(strategy, kind, merged, all_of_them)
    if strategy is Strategy.TIMESTAMP:
        winner = latest(all_of_them, lambda one: min(one.at if now is None else now, time_of(one, policy.time_field)))
    elif strategy is Strategy.PRIORITY:
        winner = by_priority(all_of_them, policy.sources)
    else:
        winner = latest(all_of_them)
    content = _content(winner)
    rejected = tuple(one for one in all_of_them if _content(one) != content)
    clashes = merged.clashes if merged is not None else ()
    return Settlement(strategy, kind, winner.value, winner, (winner,), rejected, clashes)


def latest(siblings: Iterable[Sibling], time: Callable[[Sibling], float] = lambda one: one.at) -> Sibling:
    """The one that was made last."""
    return max(siblings, key=lambda one: (time(one), _order(one)))


def by_priority(siblings: Iterable[Sibling], sources: Sequence[str]) -> Sibling:
    """The one whose source ranks first; the later of two of the same rank. A source that is not named ranks last."""
    ranks = {source: -place for place, source in enumerate(sources)}
    return max(siblings, key=lambda one: (ranks.get(source_of(one), -len(ranks)), _order(one)))


def merge_fields(base: Sibling | None, siblings: Sequence[Sibling]) -> Merged | None:
    """The base with what each version changed of it, field by field and into objects; None where that cannot be.

    Of a field that several changed to different values, the latest version's stands, and the field is a clash. Values over
    `MOST_MERGED` are not looked into: a merge is made within an append, where others wait.
    """
    if base is None or any(len(one.value or b"") > MOST_MERGED for one in siblings):
        return None
    texts = [_text(one) for one in siblings]
    roots = [members(text) if text is not None else None for text in texts]
    base_text = _text(base)
    if base.value is None:
        root: Mapping[str, str] | None = {}
    else:
        root = members(base_text) if base_text is not None else None
    if root is None or any(one is None for one in roots):
        return None
    ranked = sorted(range(len(siblings)), key=lambda place: _order(siblings[place]))
    merger = _Merger(ranked)
    value = merger.objects((), root, [one for one in roots if one is not None])
    return Merged(value.encode(), tuple(merger.clashes), frozenset(merger.rejected))


class _Merger:
    """One merge; `ranked` are the places of the versions, the latest last."""

    def __init__(self, ranked: Sequence[int]) -> None:
        self.clashes: list[str] = []
        self.rejected: set[int] = set()
        self._ranked = ranked

    def objects(self, path: tuple[str, ...], base: Mapping[str, str], ours: Sequence[Mapping[str, str]]) -> str:
        names = dict.fromkeys(base)
        for place in self._ranked:
            names |= dict.fromkeys(ours[place])
        merged: list[str] = []
        for name in names:
            text = self._member((*path, name), base.get(name), [one.get(name) for one in ours])
            if text is not None:
                merged.append(f"{json.dumps(name)}:{text}")
        return "{" + ",".join(merged) + "}"

    def _member(self, path: tuple[str, ...], base: str | None, texts: Sequence[str | None]) -> str | None:
        before = plain(base)
        changed = [place for place in self._ranked if plain(texts[place]) != before]
        if not changed:
            return base
        different = {place: plain(texts[place]) for place in changed}
        last = changed[-1]
        if all(value == different[last] for value in different.values()):
            return texts[last]
        if len(path) < DEEPEST:
            inside = [members(text) if text is not None else None for text in texts]
            root: Mapping[str, str] | None = {} if base is None else members(base)
            if root is not None and all(one is not None for one in inside):
                return self.objects(path, root, [one for one in inside if one is not None])
        self.clashes.append(".".join(path))
        self.rejected |= {place for place, value in different.items() if value != different[last]}
        return texts[last]


def members(text: str) -> dict[str, str] | None:
    """The members of a JSON object, each with its value's own text; None for what is no object."""
    try:
        return _members(text)
    except (RecursionError, ValueError, IndexError):  # nested deeper than is looked into, or no JSON after all
        return None


def _members(text: str) -> dict[str, str] | None:
    place = _skipped(text, 0)
    if text[place : place + 1] != "{":
        return None
    found: dict[str, str] = {}
    place = _skipped(text, place + 1)
    while text[place] != "}":
        name, place = _DECODER.raw_decode(text, place)
        begin = _skipped(text, _skipped(text, place) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        found[name] = text[begin:end]
        place = _skipped(text, end)
        if text[place] == ",":
            place = _skipped(text, place + 1)
    return found


def time_of(one: Sibling, member: str) -> float:
    """When a version was made: as its value says, else when it was written."""
    said = _said(one, member)
    moment = parse_moment(said) if isinstance(said, str) else None
    return one.at if moment is None else moment


def source_of(one: Sibling) -> str:
    """Where a version comes from: as its value says, else as it was written."""
    said = _said(one, "source")
    return said if isinstance(said, str) else one.source


class _Number(NamedTuple):
    """A number as it is written: no digit of it is lost, and it is no string."""

    text: str


_DECODER: Final = json.JSONDecoder(parse_float=_Number, parse_int=_Number)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_ABSENT: Final = object()


def _skipped(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None
    return match.end()


def plain(text: str | None) -> Any:
    """The text of a value as it is compared, None for none."""
    return _ABSENT if text is None else _DECODER.decode(text)


def _merged(strategy: Strategy, kind: ConflictType, merged: Merged, siblings: Sequence[Sibling]) -> Settlement:
    accepted = tuple(one for place, one in enumerate(siblings) if place not in merged.rejected)
    rejected = tuple(one for place, one in enumerate(siblings) if place in merged.rejected)
    return Settlement(strategy, kind, merged.value, None, accepted, rejected, merged.clashes)


def _type_of(siblings: Sequence[Sibling], merged: Merged | None, *, based: bool) -> ConflictType:
    """`schema`: of different types. `data`: changed differently, or deleted here and changed there. `version`: neither, or
    it cannot be told, since what they were made from is not known."""
    held = [one for one in siblings if one.value is not None]
    if len({(one.content_type, _shape(_text(one))) for one in held}) > 1:
        return "schema"
    if merged is None:
        different = len({_content(one) for one in siblings}) > 1
        return "data" if different and (based or len(held) < len(siblings)) else "version"
    if not merged.clashes:
        return "version"
    values = [_Opened(_text(one)) for one in held]
    for path in merged.clashes:
        shapes = {_shape(text) for value in values if (text := value.at(tuple(path.split(".")))) is not None}
        if len(shapes - {"null"}) > 1:
            return "schema"
    return "data"


class _Opened:
    """A value, of which each object is read once, however many of its fields are looked at."""

    def __init__(self, text: str | None) -> None:
        self._text = text
        self._objects: dict[tuple[str, ...], Mapping[str, str]] = {}

    def at(self, path: tuple[str, ...]) -> str | None:
        """The text of a field, None where there is none."""
        text = self._text
        for depth, name in enumerate(path):
            above = path[:depth]
            if above not in self._objects:
                self._objects[above] = (members(text) if text is not None else None) or {}
            text = self._objects[above].get(name)
        return text


def _shape(text: str | None) -> str:
    """The JSON type of a value, by how it begins."""
    first = text.lstrip()[:1] if text else ""
    return {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null", "": ""}.get(
        first, "number"
    )


def _text(one: Sibling) -> str | None:
    """The value as JSON text; None where it is none."""
    if one.value is None or one.content_type != JSON:
        return None
    return one.value.decode()


def _said(one: Sibling, member: str) -> Any:
    text = _text(one)
    found = (members(text) or {}).get(member) if text is not None else None
    return orjson.loads(found) if found is not None and found.startswith('"') else None


def _content(one: Sibling) -> bytes:
    return b"" if one.value is None else content_hash(one.content_type, one.value)


def _order(one: Sibling) -> tuple[float, int, str, bytes, str]:
    """A total order: two that are the same by it are the same."""
    return one.at, one.version, one.source, _content(one), one.content_type
