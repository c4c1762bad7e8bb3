"""Fields: which write each field of a JSON object is of, so that what sites wrote at once is merged field by field.

A field is what lies at the end of a path through objects; an array is one. The rule that must not break: of each field the
latest write counts that anybody knows of, be it a removal, so a merge is the same in whatever order and how often it is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Final, NamedTuple

from cachesvc.model.entry import JSON, Entry, Fields, Origin, Stamp, Vector
from cachesvc.model.merging import DEEPEST, Merged, members, plain
from cachesvc.model.vector import joined, knows

MOST: Final = 1_000  # fields told apart; what has more, or had, counts as written whole
_EMPTY: Final = "{}"

Path = tuple[str, ...]


class _Version(NamedTuple):
    """One version: the texts of its fields, and which write each is of, removed ones among them."""

    texts: Mapping[Path, str]
    stamps: Mapping[Path, Stamp]
    known: Vector


def stamped(entry: Entry, row: Entry | None, origin: Origin, known: Vector, row_origin: Origin | None) -> Entry:
    """A write with its fields, `row` being what it was written over, as far as that is known to other sites."""
    texts = _texts(entry)
    if texts is None:
        return entry._replace(fields=None)
    own = Stamp(entry.updated_at, origin)
    before = _texts(row) if row is not None else None
    if row is None or before is None or row_origin is None:
        return entry._replace(fields=Fields(own, known))
    held = row.fields or Fields(Stamp(row.updated_at, row_origin), known)
    changed = {tuple(path): stamp for path, stamp in held.changed}
    for path in before.keys() | texts.keys():
        if (path in before) != (path in texts) or plain(before[path]) != plain(texts[path]):
            changed[path] = own
    if len(changed) > MOST:
        return entry._replace(fields=Fields(own, known))
    return entry._replace(fields=Fields(held.root, known, tuple(sorted(changed.items()))))


def merge(entries: Sequence[Entry]) -> tuple[Merged, Fields] | None:
    """Versions merged by field, the latest last; None where one is no object, or not told apart by fields."""
    versions = [version for entry in entries if (version := _version(entry)) is not None]
    if len(versions) < len(entries):
        return None
    winners: dict[Path, tuple[Stamp, str | None]] = {}
    clashes: list[str] = []
    rejected: set[int] = set()
    for path in dict.fromkeys(path for version in versions for path in version.stamps):
        said = {place: version.stamps[path] for place, version in enumerate(versions) if path in version.stamps}
        best = max(said, key=lambda place: (said[place], versions[place].texts.get(path, "")))
        winners[path] = said[best], versions[best].texts.get(path)
        lost = {place for place in said if _clash(path, versions[place], versions[best])}
        if lost:
            rejected |= lost
            clashes.append(".".join(path))
    root = max(entry.fields.root for entry in entries if entry.fields is not None)
    known = reduce(joined, (version.known for version in versions))
    standing = _standing(winners)
    changed = {path: stamp for path, (stamp, text) in winners.items() if stamp != root or path not in standing}
    value = _composed(standing).encode()
    return Merged(value, tuple(clashes), frozenset(rejected)), Fields(root, known, tuple(sorted(changed.items())))


def _version(entry: Entry) -> _Version | None:
    texts = _texts(entry)
    if texts is None or entry.fields is None:
        return None
    stamps: dict[Path, Stamp] = dict.fromkeys(texts, entry.fields.root)
    return _Version(texts, stamps | dict(entry.fields.changed), entry.fields.known)


def _texts(entry: Entry) -> dict[Path, str] | None:
    """The fields of an object, by path; None for what is none, or has too many."""
    if entry.deleted or entry.content_type != JSON:
        return None
    root = members(entry.value.decode())
    if root is None:
        return None
    found = dict(_walked((), root))
    return found if len(found) <= MOST else None


def _walked(path: Path, held: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    for name, text in held.items():
        inside = members(text) if len(path) < DEEPEST else None
        if inside:
            yield from _walked((*path, name), inside)
        else:
            yield (*path, name), text


def _clash(path: Path, one: _Version, best: _Version) -> bool:
    """Whether both wrote the field, to different values, without knowing of each other."""
    mine, other = one.stamps[path], best.stamps[path]
    if mine == other or knows(one.known, other.origin) or knows(best.known, mine.origin):
        return False
    return bool(plain(one.texts.get(path)) != plain(best.texts.get(path)))


def _standing(winners: Mapping[Path, tuple[Stamp, str | None]]) -> dict[Path, str]:
    """Those that are there. Of a field and one inside it the later stands; an empty object makes room for what is in it."""
    there = {path: (stamp, text) for path, (stamp, text) in winners.items() if text is not None}
    taken: set[Path] = set()
    within: set[Path] = set()
    order = sorted(there, key=lambda path: (there[path][1] != _EMPTY, there[path][0], path), reverse=True)
    for path in order:
        above = {path[:length] for length in range(1, len(path))}
        if path in within or above & taken:
            continue
        taken.add(path)
        within |= above
    return {path: text for path, (_, text) in there.items() if path in taken}


def _composed(texts: Mapping[Path, str]) -> str:
    below: dict[str, dict[Path, str]] = {}
    for path, text in texts.items():
        below.setdefault(path[0], {})[path[1:]] = text
    said = (f"{json.dumps(name)}:{rest[()] if () in rest else _composed(rest)}" for name, rest in below.items())
    return "{" + ",".join(said) + "}"
