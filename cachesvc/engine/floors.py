"""Floors: the oldest version of a key that this node may still serve.

Raising a floor and dropping the older copy is one step without an `await`. Raise a floor only after the authority has the
write; sooner, readers find nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from cachesvc.model.invalidation import InForce, Patterns
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq

MAX_RETIRED: Final = 1_000  # patterns that are remembered


class Floors:
    """Which versions this node may serve, how far it has applied the log, and up to where it has forgotten.

    Floors are bounded: they live in two generations, and when the young one is full the old one is forgotten. What was
    forgotten lies at or below the `horizon`; whoever began to read before it (token < horizon) reads again.
    A pattern in force is a floor under every key that matches. It is forgotten when the horizon has passed its retirement:
    from then on no tier is believed that was not swept of what it killed.
    `on_raise(key, version)` drops what is older than `version` wherever this process keeps it, `on_raise_all` the same of many.
    """

    def __init__(
        self,
        start: Position,
        *,
        limit: int,
        on_raise: Callable[[Key, int], None],
        on_raise_all: Callable[[Collection[Key], int], None],
        patterns: Iterable[InForce] = (),
    ) -> None:
        self.applied = start
        self.horizon = start
        self.patterns = Patterns(patterns)
        self._limit = max(1, limit // 2)
        self._on_raise = on_raise
        self._on_raise_all = on_raise_all
        self._young: dict[Key, int] = {}
        self._old: dict[Key, int] = {}
        self._highest = 0  # no floor of a key is higher

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def floor(self, key: Key) -> int:
        """The lowest version that may be served, 0 where none is known."""
        own = self._own(key)
        if not self.patterns.highest:
            return own
        return max(own, self.patterns.newest(key, own))

    def _own(self, key: Key) -> int:
        """The key's own floor, whatever patterns match it: they are forgotten at other times."""
        young = self._young.get(key)
        return young if young is not None else self._old.get(key, 0)

    def raise_to(self, key: Key, version: int) -> None:
        """From now on nothing of this key that is older than `version` is served here."""
        if version > self._own(key):
            self._young[key] = version
            self._highest = max(self._highest, version)
            self._on_raise(key, version)
            if len(self._young) >= self._limit:
                self._forget()

    def raise_all(self, keys: Collection[Key], version: int) -> None:
        """The same of many keys at once: one after the other, a hundred thousand would take most of a second."""
        young, old = self._young, self._old
        raised: Collection[Key] = keys
        if version <= self._highest:  # else no key has a floor as high
            raised = [key for key in keys if version > (young.get(key) or old.get(key, 0))]
        if raised:
            self._highest = max(self._highest, version)
            young.update(dict.fromkeys(raised, version))
            self._on_raise_all(raised, version)
            if len(young) >= self._limit:
                self._forget()

    def admits(self, key: Key, version: int, token: Position) -> bool:
        """Whether an entry, read by someone who began at `token`, may be served and kept above the authority.

        A version is a token too: what is read at a version is as young as the change that wrote it.
        """
        own = self._young.get(key) or self._old.get(key, 0)  # as `_own`: each read below memory passes here
        horizon = self.horizon.sequence
        return (
            version >= own
            and (version >= horizon or token.sequence >= horizon)
            and token.epoch == self.applied.epoch
            and not (version < self.patterns.highest and self.patterns.newest(key, version))
        )

    def take(self, key: Key, version: int, token: Position) -> bool:
        """Whether it is admitted; if so it is the floor from now on, and the caller keeps it in this very step.

        So it takes the place of what is older, which need not be dropped before.
        """
        if not self.admits(key, version, token):
            return False
        if version > (self._young.get(key) or self._old.get(key, 0)):
            self._young[key] = version
            self._highest = max(self._highest, version)
            if len(self._young) >= self._limit:
                self._forget()
        return True

    def passed(self, sequence: int) -> bool:
        """Whether a change of this sequence is applied here."""
        return sequence <= self.applied.sequence

    def invalidate(self, pattern: InForce) -> None:
        """From now on nothing that matches and is older is served here. Memory must drop it in the same step.

        One that was applied before, by following the log, is told late: by now it may have been retired and forgotten.
        """
        if not self.passed(pattern.sequence):
            self.patterns.add(pattern)

    def retire(self, name: str, sequence: Seq, *, at: Seq) -> None:
        """The authority has been swept of what the pattern kills. Redis has when its cursor is past the retirement."""
        self.patterns.retire(name, sequence, at=at)
        retired = sorted(one.retired for one in self.patterns if one.retired)
        if len(retired) > MAX_RETIRED:  # bounded: the oldest half is forgotten, and the horizon says so
            self._pass(retired[len(retired) // 2])

    def apply(self, sequence: Seq) -> None:
        """Everything up to `sequence` has been applied here."""
        self.applied = Position(self.applied.epoch, sequence)

    def start_over(self, at: Position, patterns: Iterable[InForce] = ()) -> None:
        """Forget all but what lies past `at`, where this node now stands. Memory must be cleared in the same step.

        `patterns` are those in force there.
        """
        past = {key: version for key, version in (self._old | self._young).items() if version > at.sequence}
        self.applied = self.horizon = at
        self._young, self._old = past, {}
        self.patterns = Patterns([*patterns, *(one for one in self.patterns if one.sequence > at.sequence)])

    def _pass(self, sequence: int) -> None:
        """What lies at or below may be forgotten from now on."""
        if sequence > self.horizon.sequence:
            self.horizon = Position(self.applied.epoch, Seq(sequence))
        self.patterns.forget_retired(self.horizon.sequence)

    def _forget(self) -> None:
        """Forget the old generation. What lies past `applied` stays while there is room: no token is as high yet."""
        applied = self.applied.sequence
        kept: dict[Key, int] = {}
        forgotten: Iterable[int] = self._old.values()
        if max(forgotten, default=0) > applied:
            kept = {key: version for key, version in self._old.items() if version > applied and key not in self._young}
            if len(kept) > self._limit // 2:  # this node lags far behind: it admits nothing until it has caught up
                kept = {}
            else:
                forgotten = (version for version in self._old.values() if version <= applied)
        highest = max(forgotten, default=0)
        self._old = self._young
        self._young = kept
        self._pass(highest)
