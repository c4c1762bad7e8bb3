"""Invalidations: what one names, and the patterns that are in force.

The rule that must not break: a pattern kills what is older than its own sequence and matches, and nothing else; so what is
written after it is never touched by it, however late it is looked at. A soft one does not delete: it is a write to all that
it matches, which leaves the content, past its life, at the version of the invalidation. So no older copy is fresher.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from math import inf
from typing import Final, NamedTuple

from cachesvc.errors import Refused
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Enumeration, Pattern, parse_pattern
from cachesvc.model.position import Seq, Version
from cachesvc.model.replica import ended, portable

_NEVER = Seq(0)
MANY: Final = 1_000  # keys that an authority with an index ends in the append itself; more are in force, and ended after it
SOFT = "\x1f"  # what the name of a soft pattern begins with: no pattern has a control character


class Invalidation(NamedTuple):
    """What an invalidation names: a pattern ("" for none), keys, tags, and whether what depends on any of them goes too.

    In the log `keys` are all that it came to, of tags and of the cascade too. A retirement says the pattern again, and whose.
    """

    pattern: str = ""
    keys: tuple[Key, ...] = ()
    tags: tuple[str, ...] = ()
    cascade: bool = False
    retires: Seq = _NEVER  # the sequence of the invalidation that a retirement ends, 0 for an invalidation
    soft: bool = False  # what it names is past its life from then on, and kept
    origin: str = ""  # where it was first said, `site:sequence`; "" for here
    at: float = inf  # when it was said there; what it names by key, tag or cascade and is later stands

    @property
    def name(self) -> str:
        """What its pattern is known by."""
        return _name(self.pattern, self.soft)

    @property
    def relates(self) -> bool:
        """Whether the authority has to look up what it comes to."""
        return bool(self.tags) or self.cascade

    @property
    def looked_up(self) -> bool:
        """Whether it is looked up in the state before an append, so that it has to come first there."""
        return self.relates or len(self.keys) > MANY


class Related(NamedTuple):
    """What the authority looked up for an invalidation: the keys that have its tags, and those that depend on what it names."""

    tagged: tuple[Key, ...] = ()
    dependents: tuple[Key, ...] = ()  # transitively; what is named or tagged is not among them
    marks: tuple[str, ...] = ()  # the tags of what its pattern kills; where rows are left to the sweep, of those too
    # entries that are hit, of what is matched and cascaded, where they are many: their rows were not read, and are left to the
    # sweep
    counted: tuple[int, int] | None = None
    refused: Refused | None = None  # it is too much


def hit(entry: Entry, now: float, *, soft: bool) -> bool:
    """Whether an invalidation takes anything away: of what is past its life already a soft one does not, but the content is
    there, for whoever takes what is stale, until a hard one takes it.
    """
    return entry.live(now) if soft else not entry.deleted


def mark_of(tag: str) -> Key:
    """The row that says when an entry with the tag last changed. No key of a client has a control character."""
    return Key(f"\x1f{tag}")


def ended_mark_of(tag: str) -> Key:
    """The row that says when all that has the tag was last invalidated by it."""
    return mark_of(mark_of(tag))


class InForce(NamedTuple):
    """A pattern in force since `sequence`.

    It is active until it is retired: until the authority has been swept of all that it kills. Then it is remembered for a
    while all the same, since what was read before it may still be on its way. An enumeration is the authority's own: it stands
    for rows that are not written yet, and is forgotten as soon as they are. Everybody else goes by the keys in the record.
    """

    sequence: Seq
    pattern: Pattern
    retired: Seq = _NEVER  # the sequence of its retirement, 0 while it is active
    at: float = 0.0  # Unix seconds of the authority, when it came into force
    soft: bool = False

    @property
    def name(self) -> str:
        """The same text twice is one pattern, but a soft one does not take the place of one that is not."""
        return _name(self.pattern.text, self.soft)


def _name(text: str, soft: bool) -> str:
    return f"{SOFT}{text}" if soft else text


class Patterns:
    """The patterns in force, found by the literal prefix of a key, so that many of them cost a read little.

    The same name twice is one pattern: the newer one kills all that the older one does.
    """

    def __init__(self, in_force: Iterable[InForce] = (), *, site: str = "") -> None:
        self._site = site  # the name of this one, "" where there are no others
        self.highest = _NEVER  # no pattern in force is newer
        self._by_name: dict[str, InForce] = {}
        self._by_prefix: dict[str, list[InForce]] = {}  # the newest first
        self._lengths: tuple[int, ...] = ()  # of those prefixes
        for one in in_force:
            self.add(one)

    def __len__(self) -> int:
        return len(self._by_name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patterns) and self._by_name == other._by_name

    __hash__ = None  # type: ignore[assignment] # it changes

    def __iter__(self) -> Iterator[InForce]:
        return iter(self._by_name.values())

    @property
    def active(self) -> int:
        """How many are not retired; enumerations are not counted."""
        return sum(not one.retired and not isinstance(one.pattern, Enumeration) for one in self)

    @property
    def enumerated(self) -> int:
        """How many keys are named one by one."""
        return sum(len(one.pattern.keys) for one in self if isinstance(one.pattern, Enumeration))

    def copy(self) -> Patterns:
        return Patterns(self, site=self._site)

    def find(self, name: str) -> InForce | None:
        return self._by_name.get(name)

    def newest(self, key: str, above: int = 0) -> int:
        """The sequence of the newest pattern that matches the key and is newer than `above`; 0 for none."""
        if above >= self.highest:
            return 0
        newest = above
        for length in self._lengths:
            for one in self._by_prefix.get(key[:length], ()):
                if one.sequence <= newest:
                    break
                if one.pattern.matches(key):
                    newest = one.sequence
                    break
        return newest if newest > above else 0

    def since(self, sequence: int) -> list[Pattern]:
        """Those that came into force after a sequence, but for enumerations."""
        if sequence >= self.highest:
            return []
        return [one.pattern for one in self if one.sequence > sequence and not isinstance(one.pattern, Enumeration)]

    def matching(self, key: str) -> list[InForce]:
        """All that match the key, the newest first."""
        found = [one for length in self._lengths for one in self._by_prefix.get(key[:length], ()) if one.pattern.matches(key)]
        return sorted(found, key=lambda one: -one.sequence)

    def ended(self, key: str, version: int) -> bool:
        """Whether that version is deleted; what is only stale is not."""
        buckets = (self._by_prefix.get(key[:length], ()) for length in self._lengths)
        return any(one.sequence > version and not one.soft and one.pattern.matches(key) for held in buckets for one in held)

    def hide(self, entry: Entry) -> Entry:
        """The entry as it counts: where patterns kill it, deleted since the newest of them; stale where only soft ones do."""
        if entry.deleted or not (since := self.newest(entry.key, entry.version)):
            return entry
        killers = [one for one in self.matching(entry.key) if one.sequence > entry.version]
        if all(one.soft for one in killers):
            return softened(entry, killers[0].sequence, at=min(one.at for one in killers), site=self._site)
        hidden = entry._replace(version=Version(since), value=b"", deleted=True)
        return ended(hidden, entry, self._site) if self._site else hidden

    def add(self, one: InForce) -> None:
        """From now on it is in force. Of the same name the newest counts; what is retired stays so, however late it is told."""
        known = self._by_name.get(one.name)
        if known is not None:
            if (known.sequence, known.retired) >= (one.sequence, one.retired):
                return
            self._drop(known)
        self._by_name[one.name] = one
        insort(self._by_prefix.setdefault(one.pattern.prefix, []), one, key=lambda held: -held.sequence)
        self._measure()

    def retire(self, name: str, sequence: Seq, *, at: Seq) -> None:
        """The pattern of that sequence was retired at `at`; nothing when it is not known, or a newer one took its place."""
        known = self._by_name.get(name)
        if known is not None and known.sequence == sequence:
            self.add(known._replace(retired=at))

    def forget_retired(self, upto: int) -> None:
        """Forget what was retired up to there."""
        for one in [one for one in self if 0 < one.retired <= upto]:
            self._drop(one)
        self._measure()

    def _drop(self, one: InForce) -> None:
        del self._by_name[one.name]
        same = self._by_prefix[one.pattern.prefix]
        same.remove(one)
        if not same:
            del self._by_prefix[one.pattern.prefix]

    def _measure(self) -> None:
        self._lengths = tuple(sorted({len(prefix) for prefix in self._by_prefix}))
        self.highest = max((one.sequence for one in self), default=_NEVER)


def in_force(sequence: Seq, text: str, *, retired: Seq = _NEVER, at: float = 0.0, soft: bool = False) -> InForce:
    """A pattern as the log tells of it. Raises `InvalidInput` for a text that is none."""
    return InForce(sequence, parse_pattern(text), retired, at, soft)


def softened(entry: Entry, sequence: int, *, at: float, site: str = "") -> Entry:
    """What a soft invalidation leaves of an entry: its content at the invalidation's version, past its life since then.

    At one of several sites, `site`, it is of the same write as before, and knows of the same.
    """
    if site and not entry.local:
        entry = portable(entry, site)
    return ending(entry, at)._replace(version=Version(sequence))


def ending(entry: Entry, at: float) -> Entry:
    """The entry with a life that ends then, or as soon as it did."""
    return entry._replace(expires_at=at if entry.expires_at is None else min(entry.expires_at, at))
