"""The rules of coherence, one by one, each with a way to switch it off from here.

`without()` takes away the one condition or call that keeps the rule. Where a script in Redis keeps it, `script` says what to
take out of its text, and the fake server leaves the same out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from cachesvc.engine import reads
from cachesvc.engine.flight import Flight, Flights
from cachesvc.engine.floors import Floors
from cachesvc.model import fold
from cachesvc.model.invalidation import Patterns
from cachesvc.model.keys import Key
from cachesvc.model.position import MAX_SEQ, Position, Seq
from cachesvc.tiers import redis_connection, redis_retire
from cachesvc.tiers.memory import MemoryTier
from cachesvc.tiers.redis import RedisTier
from cachesvc.tiers.redis_partitions import State


class Script(NamedTuple):
    """A script of Redis and the part of its text that is the rule, with what stands there without it."""

    name: str
    kept: str
    left_out: str

    @property
    def text(self) -> bytes:
        """The script without the rule."""
        whole = redis_connection.load_script(self.name).text.decode()
        assert whole.count(self.kept) == 1, f"{self.name}.lua does not say {self.kept!r} once"
        return whole.replace(self.kept, self.left_out).encode()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `without` is entered to be without it; one that a `script` keeps is named to the fake server instead."""

    name: str
    says: str
    without: Callable[[], AbstractContextManager[object]] = nullcontext
    script: Script | None = None


def _admits(self: Floors, key: Key, version: int, token: Position, *, left_out: str) -> bool:
    """`Floors.admits` without one of its conditions."""
    return (
        (left_out == "floors" or version >= self._own(key))
        and (left_out == "horizon" or max(token.sequence, version) >= self.horizon.sequence)
        and token.epoch == self.applied.epoch
        and (left_out == "patterns" or not self.patterns.newest(key, version))
    )


def _admitting_without(condition: str) -> Callable[[], AbstractContextManager[object]]:
    return lambda: patch.object(Floors, "admits", lambda *arguments: _admits(*arguments, left_out=condition))


@contextmanager
def _without_token() -> Iterator[None]:
    class Late(Flight):
        """A flight that claims to have begun at the end of time."""

        __slots__ = ()

        def __init__(self, key: Key, token: Position, *, load: bool, direct: bool = False) -> None:
            super().__init__(key, Position(token.epoch, Seq(MAX_SEQ)), load=load, direct=direct)

    with patch.object(reads, "Flight", Late):
        yield


def _retire_at_once(self: Floors, text: str, sequence: Seq, *, at: Seq) -> None:
    self.patterns.retire(text, sequence, at=at)
    self.patterns.forget_retired(at)


def _without_after() -> AbstractContextManager[object]:
    replay = RedisTier.replay

    async def from_anywhere(self: RedisTier, changes: Any, *, upto: Position, after: object) -> None:
        await replay(self, changes, upto=upto)

    return patch.object(RedisTier, "replay", from_anywhere)


async def _nothing(*_: object) -> AsyncIterator[object]:
    """A walk over the keys of Redis that finds none."""
    return
    yield


def _checking_less(change: Callable[..., tuple[Any, ...]]) -> Callable[[], AbstractContextManager[object]]:
    """`fold._check_token` of less than it should look at."""
    check = fold._check_token
    return lambda: patch.object(fold, "_check_token", lambda *arguments: check(*change(*arguments)))


def _not_the_key(state: Any, folded: Any, draft: Any, token: Any, current: Any) -> tuple[Any, ...]:
    return state, folded, draft._replace(key=Key("\x1f")), token, current


def _not_the_patterns(state: Any, folded: Any, draft: Any, token: Any, current: Any) -> tuple[Any, ...]:
    return replace(state, patterns=Patterns()), folded, draft, token, current


def _not_the_parents(state: Any, folded: Any, draft: Any, token: Any, current: Any) -> tuple[Any, ...]:
    return state, folded, draft._replace(parents=()), token, current


def _not_the_age(state: Any, folded: Any, draft: Any, token: Any, current: Any) -> tuple[Any, ...]:
    return replace(state, complete_since=Seq(0)), folded, draft, token, current


def _never(*_: object, **__: object) -> None:
    return None


RULES: Final = {
    rule.name: rule
    for rule in (
        Rule("floors", "What is below its floor is not served.", _admitting_without("floors")),
        Rule(
            "raise",
            "A change that is followed raises the floor.",
            lambda: patch.object(Floors, "raise_to", _never),
        ),
        Rule(
            "drop",
            "With the floor the older copy in memory goes, in the same step.",
            lambda: patch.object(MemoryTier, "drop", _never),
        ),
        Rule("horizon", "What began before the horizon is read again.", _admitting_without("horizon")),
        Rule("patterns", "What a pattern in force kills is not served.", _admitting_without("patterns")),
        Rule(
            "doubt",
            "What a pattern kills is no hit in memory, in the same step.",
            lambda: patch.object(MemoryTier, "doubt", _never),
        ),
        Rule(
            "cursor",
            "Redis is believed only if it has been replayed up to the node's horizon.",
            lambda: patch.object(State, "reaches", lambda state, horizon: state.epoch == horizon.epoch),
        ),
        Rule("token", "A read takes its token first.", _without_token),
        Rule(
            "observe",
            "What was served is the floor.",
            lambda: patch.object(Floors, "take", lambda self, *arguments: self.admits(*arguments)),
        ),
        Rule(
            "part",
            "A flight that began before a change is not joined after it.",
            lambda: patch.object(Flights, "part", _never),
        ),
        Rule(
            "late pattern",
            "An invalidation that was followed is not put in force again when its node is told that it was made.",
            lambda: patch.object(Floors, "passed", lambda self, sequence: False),
        ),
        Rule(
            "keep",
            "A retired pattern is kept until the horizon passes.",
            lambda: patch.object(Floors, "retire", _retire_at_once),
        ),
        Rule("resweep", "Redis is swept before it passes a retirement.", lambda: patch.object(redis_retire, "scan", _nothing)),
        Rule("fill: key", "A fill is refused if its key changed since its token.", _checking_less(_not_the_key)),
        Rule("fill: pattern", "A fill is refused if a pattern that matches came since.", _checking_less(_not_the_patterns)),
        Rule("fill: parent", "A fill is refused if a parent changed since.", _checking_less(_not_the_parents)),
        Rule("fill: age", "A fill is refused where its token cannot be judged any more.", _checking_less(_not_the_age)),
        Rule("merge", "Put keeps the newer.", script=Script("put", "and version_of(head) or -1", "and -1 or -1")),
        Rule(
            "low",
            "A put from before `low` is refused.",
            script=Script("put", "if math.max(token, version) < low then", "if false then"),
        ),
        Rule(
            "recent",
            "A put is refused where something newer was replayed.",
            script=Script("put", "if known and tonumber(known) > version then", "if false then"),
        ),
        Rule(
            "evicted",
            "Where `recent` was evicted, `low` is the cursor.",
            script=Script("put", "if not redis.call('ZSCORE', recent, '') then", "if false then"),
        ),
        Rule(
            "replay",
            "The replay drops what is older than a change.",
            script=Script("replay", "if head ~= '' and (", "if false and ("),
        ),
        Rule("whole", "The replay moves no partition that misses what came before.", _without_after),
        Rule("order", "A partition moves only from where it was left.", script=Script("replay", " and cursor == expected", "")),
        Rule(
            "swept",
            "A partition passes a retirement only where the sweep came by.",
            script=Script("replay", " and tonumber(low) >= least", ""),
        ),
        Rule(
            "generation",
            "A partition that begins anew is empty.",
            script=Script("restart", "tonumber(time[1]) * 1000000 + tonumber(time[2])", "1"),
        ),
        Rule(
            "fence",
            "Nothing that was read before an invalidation enters once its retirement is replayed.",
            script=Script("retire", "if tonumber(low) < tonumber(sequence) then", "if false then"),
        ),
    )
}
