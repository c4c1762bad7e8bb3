"""Replay into Redis: the log moves the partitions, each from exactly where it was left.

The rule that must not break: a partition that did not answer is not taken as moved. It is left out until it says itself where
it stands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from cachesvc.model.change import Change, Kind
from cachesvc.model.invalidation import in_force
from cachesvc.model.keys import Key, partition_of
from cachesvc.model.position import Position, Seq
from cachesvc.ports import Mark
from cachesvc.tiers.redis_connection import Connection, Group, load_script
from cachesvc.tiers.redis_look import see_all
from cachesvc.tiers.redis_partitions import NO_ID, Partition, State
from cachesvc.tiers.redis_retire import retire

MAX_CALL_CHANGES: Final = 1_000  # so that Redis is never held up for long; nor by one change that touches very many keys:
MAX_CALL_KEYS: Final = 4_096

_REPLAY, _RESTART = (load_script(name) for name in ("replay", "restart"))


class Replay:
    """What `ports.Replica` says of cursors, over the partitions of a tier."""

    def __init__(self, connection: Connection, partitions: Sequence[Partition], *, key_prefix: str, max_recent: int) -> None:
        self._connection = connection
        self._partitions = partitions
        self._key_prefix = key_prefix.encode()
        self._max_recent = max_recent
        self._left: dict[int, State] = {}  # where `replay` left each partition, or `cursors` found it

    async def cursors(self) -> Mapping[int, Mark | None]:
        """See `ports.Replica`."""
        await see_all(self._connection, self._partitions)
        said = {partition.number: partition.state for partition in self._partitions if not partition.away}
        self._left = {number: state for number, state in said.items() if state is not None}
        return {
            number: Mark(state.position, state.id.strip(NO_ID)) if state is not None else None for number, state in said.items()
        }

    def vouch(self, partitions: Collection[int]) -> None:
        """See `ports.Replica`."""
        for number in partitions:
            if number in self._left:
                self._partitions[number].vouched = self._left[number].generation

    async def replay(self, changes: Sequence[Change], *, upto: Position, after: Position | None = None) -> int:
        """See `ports.Replica`. In script calls of a bounded size, each of which moves some of the partitions."""
        first = 0
        begun = after.sequence if after is not None else 0
        for place, change in enumerate(changes):
            if change.kind is Kind.RETIRE and change.invalidation is not None:
                begun = await self._replay_many(changes[first:place], begun, Position(upto.epoch, Seq(change.sequence - 1)))
                pattern = in_force(change.invalidation.retires, change.invalidation.pattern)
                for number in await retire(self._connection, self._key_prefix, self._partitions, pattern, upto.epoch):
                    self._left.pop(number, None)  # it stays before the retirement until it has been swept
                first = place
        await self._replay_many(changes[first:], begun, upto)
        there = [state for state in self._left.values() if state.epoch == upto.epoch and state.cursor >= upto.sequence]
        return len(self._partitions) - len(there)

    async def _replay_many(self, changes: Sequence[Change], after: int, upto: Position) -> int:
        """Replay what came after a sequence; returns up to where that was."""
        for start in range(0, max(len(changes), 1), MAX_CALL_CHANGES):
            chunk = changes[start : start + MAX_CALL_CHANGES]
            last = start + MAX_CALL_CHANGES >= len(changes)
            to = upto if last else Position(upto.epoch, chunk[-1].sequence)
            await self._move(chunk, after, to)
            after = to.sequence
        return after

    async def restart(self, partitions: Collection[int], *, at: Mark) -> None:
        """See `ports.Replica`."""
        mine = [self._partitions[number] for number in partitions]
        groups = [Group([partition.state_key, partition.recent], []) for partition in mine]
        if not groups:
            return
        async with self._connection.limited():
            states = await self._connection.run(_RESTART, (*at.position, at.id or NO_ID), groups)
        for partition, raw in zip(mine, states, strict=True):
            if raw is None:
                partition.lose()
                continue
            state = partition.see(raw if isinstance(raw, bytes) else None)
            if state is not None:
                self._left[partition.number] = state
                partition.vouched = state.generation

    async def _move(self, changes: Sequence[Change], after: int, upto: Position) -> None:
        """Move every partition that is not there yet, from where it was left; not one that misses what came before."""
        newest: dict[int, dict[Key, int]] = {}
        for change in changes:
            for key in change.touches:
                newest.setdefault(partition_of(key), {})[key] = change.sequence
        id_there = changes[-1].id if changes and changes[-1].sequence == upto.sequence else NO_ID
        # taken down, since `cursors` may find others while the call is under way
        moving = {n: s for n, s in self._left.items() if s.epoch == upto.epoch and after <= s.cursor < upto.sequence}
        groups: dict[int, Group] = {}
        for number, left in moving.items():
            partition = self._partitions[number]
            keys = [partition.state_key, partition.recent]
            arguments: list[bytes | str | int] = [left.generation, left.cursor, 0]
            if number in newest:  # most have only their cursor moved
                head = partition.head_of(left)
                for key, version in newest[number].items():
                    if version > left.cursor:
                        name = key.encode()
                        keys.append(head + name)
                        arguments += (name, version)
                arguments[2] = len(keys) - 2
            groups[number] = Group(keys, arguments)
        least = max((change.invalidation.retires for change in changes if change.invalidation is not None), default=0)
        to = (*upto, self._max_recent, least, id_there)
        for call in _calls(groups):
            async with self._connection.limited():
                answers = await self._connection.run(_REPLAY, to, [groups[number] for number in call])
            for number, answer in zip(call, answers, strict=True):
                left = moving[number]
                if answer == 1:
                    self._left[number] = State(left.epoch, upto.sequence, left.low, left.generation, id_there)
                else:
                    # another replayer moved it, it was set back, or it did not answer: it stays until `cursors` tells
                    self._left.pop(number, None)


def _calls(groups: Mapping[int, Group]) -> Iterator[list[int]]:
    """The partitions, cut into script calls of a bounded size. One is never cut: it moves in one step."""
    call: list[int] = []
    size = 0
    for number, group in groups.items():
        if call and size + len(group.keys) > MAX_CALL_KEYS:
            yield call
            call, size = [], 0
        call.append(number)
        size += len(group.keys)
    if call:
        yield call
