"""The fold over again, as a dictionary that is written one draft at a time: what the tests compare the real one with."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

from cachesvc.errors import Refusal
from cachesvc.model.change import Draft, Operation
from tests.model.naive import digits_written, matches, tokens_of

Fields = dict[str, object]


@dataclass
class NaiveRow:
    content: bytes | Fraction
    content_type: str
    version: int
    created_at: float
    expires_at: float | None
    tags: tuple[str, ...]
    parents: tuple[str, ...]
    deleted: bool = False
    killed: bool = False  # by a pattern

    def live(self, now: float) -> bool:
        return not self.deleted and (self.expires_at is None or self.expires_at > now)


@dataclass
class NaiveStore:
    """Everything that was ever written; nothing is swept."""

    epoch: int
    sequence: int
    default_ttl: float | None
    rows: dict[str, NaiveRow] = field(default_factory=dict)
    last_written: dict[str, int] = field(default_factory=dict)  # the sequence of the last write or delete of a key
    answers: dict[tuple[str, str, int], tuple[str, Fields]] = field(default_factory=dict)
    last_tagged: dict[str, int] = field(default_factory=dict)  # the sequence of the last change to anything with the tag
    invalidations: list[tuple[int, str]] = field(default_factory=list)  # every pattern ever, with its sequence
    known: dict[tuple[str, bool], int] = field(default_factory=lambda: defaultdict(int))
    active: dict[tuple[str, bool], int] = field(default_factory=dict)

    def take(self, draft: Draft, now: float) -> Fields:
        """What the draft comes to, as the fields that count; it is done at once."""
        name = draft.idempotency
        if name is None or not name.key:
            return self._do(draft, now)
        first = self.answers.get((name.subject, name.key, 0))
        known = self.answers.get((name.subject, name.key, name.place))
        if any(before is not None and before[0] != name.fingerprint for before in (first, known)):
            return {"refused": Refusal.KEY_REUSED, "current": 0}
        if known is not None:
            return known[1]
        answer = self._do(draft, now)
        self.answers[name.subject, name.key, name.place] = (name.fingerprint, answer)
        return answer

    def _do(self, draft: Draft, now: float) -> Fields:
        if draft.invalidation is not None:
            return self._invalidate(draft, now)
        row = self.rows.get(draft.key)
        live = row if row is not None and row.live(now) else None
        current = live.version if live else 0

        if draft.operation is Operation.EXPIRE:
            if row is None or row.deleted or live or row.version != draft.expected:
                return {"refused": Refusal.VERSION_CONFLICT, "current": current}
            self.sequence += 1
            self.mark((), draft.key)
            row.deleted = True
            return {"version": self.sequence, "found": True, "conflict": False}

        if draft.expected is not None and not (current > 0 if draft.expected == -1 else current == draft.expected):
            return {"refused": Refusal.VERSION_CONFLICT, "current": current}
        if draft.token is not None:
            names = (draft.key, *draft.parents)
            written = [max(self.last_written.get(name, 0), self.killed(name)) for name in names]
            touched = max([*written, *(self.last_tagged.get(name, 0) for name in draft.parents)])
            if draft.token.epoch != self.epoch or touched > draft.token.sequence:
                return {"refused": Refusal.STALE_FILL, "current": current}

        conflict = draft.base is not None and draft.base != current and draft.operation is not Operation.INCREMENT
        answer: Fields = {"found": bool(live), "conflict": conflict}
        ends = now + draft.ttl if draft.ttl is not None else now + self.default_ttl if self.default_ttl is not None else None
        content: bytes | Fraction = draft.value
        content_type, tags, parents = draft.content_type, draft.tags, draft.parents
        if draft.operation is Operation.INCREMENT:
            number = number_of(live) if live else Fraction(0)
            if number is None:
                return {"refused": Refusal.NOT_A_NUMBER, "current": current}
            content = number + Fraction(draft.amount)
            if (digits_written(content) or 1_000) > 100:
                return {"refused": Refusal.OUT_OF_RANGE, "current": current}
            answer["number"] = content
            content_type = "application/json"
            if live:
                tags, parents = tags or live.tags, parents or live.parents
                ends = ends if draft.ttl is not None else live.expires_at
        self.sequence += 1
        self.last_written[draft.key] = self.sequence
        deleted = draft.operation in (Operation.DELETE, Operation.ABSENT)
        self.mark(() if deleted else tags, draft.key)
        created_at = live.created_at if live else now
        self.rows[draft.key] = NaiveRow(content, content_type, self.sequence, created_at, ends, tags, parents, deleted)
        version = self.sequence
        self.sequence += 2 * conflict  # it is told, and how it was settled
        return answer | {"version": version}

    def mark(self, tags: tuple[str, ...], key: str) -> None:
        """The tags that the key has now, and had before, were touched."""
        row = self.rows.get(key)
        for tag in (*tags, *(row.tags if row is not None and not row.deleted else ())):
            self.last_tagged[tag] = self.sequence

    def killed(self, key: str) -> int:
        """The sequence of the last pattern that matched the key."""
        return max((sequence for sequence, text in self.invalidations if matches(tokens_of(text) or [], key)), default=0)

    def _invalidate(self, draft: Draft, now: float) -> Fields:
        named = draft.invalidation
        assert named is not None
        pattern = (named.pattern, named.soft)
        if named.retires:
            if self.active.get(pattern) != named.retires:
                return {"refused": Refusal.VERSION_CONFLICT, "current": self.known[pattern]}
            del self.active[pattern]
            self.sequence += 1
            return {"version": self.sequence, "found": False, "conflict": False}
        rows = [row for row in map(self.rows.get, named.keys) if row is not None]
        found = any(row.live(now) if named.soft else not row.deleted for row in rows)
        self.sequence += 1
        if named.pattern:
            self.invalidations.append((self.sequence, named.pattern))
            self.active[pattern] = self.known[pattern] = self.sequence
            for key, held in self.rows.items():
                if matches(tokens_of(named.pattern) or [], key):
                    if held.killed:
                        held.version = self.sequence
                    elif not held.deleted:
                        self._end(held, now, soft=named.soft)
        for key in named.keys:
            self.last_written[key] = self.sequence
            self.mark((), key)
            row = self.rows.get(key)
            if row is None or row.deleted or not named.soft:
                self.rows[key] = NaiveRow(b"", "", self.sequence, now, None, (), (), deleted=True)
            else:
                self._end(row, now, soft=True)
        return {"version": self.sequence, "found": found, "conflict": False}

    def _end(self, row: NaiveRow, now: float, *, soft: bool) -> None:
        if soft:
            row.version, row.expires_at = self.sequence, now if row.expires_at is None else min(row.expires_at, now)
        else:
            row.deleted = row.killed = True
            row.version = self.sequence


def number_of(row: NaiveRow) -> Fraction | None:
    if row.content_type != "application/json":
        return None
    if isinstance(row.content, Fraction):
        return row.content
    return Fraction(row.content.decode()) if re.fullmatch(rb"-?[0-9.]+", row.content) else None
