"""Retiring a pattern in Redis: what it killed goes, and can come back no more, before the cursor passes its retirement.

The rule that must not break: every partition's `low` is raised first. From then on no put is taken that began before the
invalidation, so that one walk over the keys finds all that is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cachesvc.model.invalidation import InForce
from cachesvc.model.keys import Key, partition_of
from cachesvc.model.position import Epoch
from cachesvc.tiers.redis_connection import Argument, Connection, Group, load_script
from cachesvc.tiers.redis_look import begin, scan
from cachesvc.tiers.redis_partitions import Partition

STEP: Final = 500  # keys dropped by one call

_RETIRE: Final = load_script("retire")


async def retire(
    connection: Connection, key_prefix: bytes, partitions: Sequence[Partition], pattern: InForce, epoch: Epoch
) -> set[int]:
    """Sweep all partitions of what the pattern killed; those that may not have been, since their master missed a call.

    Raises `TierUnavailable`, and is begun anew then.
    """
    sweep = await begin(connection, partitions)
    await _drop(connection, partitions, pattern, epoch, [])
    doomed: list[Key] = []
    async for key, version in scan(connection, key_prefix, partitions, pattern.pattern):
        if version < pattern.sequence:
            doomed.append(key)
        if len(doomed) == STEP:
            await _drop(connection, partitions, pattern, epoch, doomed)
            doomed.clear()
    if doomed:
        await _drop(connection, partitions, pattern, epoch, doomed)
    return sweep.missed()


async def _drop(
    connection: Connection, partitions: Sequence[Partition], pattern: InForce, epoch: Epoch, keys: Sequence[Key]
) -> None:
    """Drop those keys, where they are still older; without keys only raise `low`, everywhere."""
    names: dict[int, list[bytes]] = {} if keys else {partition.number: [] for partition in partitions}
    for key in keys:
        names.setdefault(partition_of(key), []).append(key.encode())
    groups: list[Group] = []
    for number, mine in names.items():
        partition = partitions[number]
        if partition.state is None:
            continue  # it is empty, or begins anew as soon as the replay finds it so
        arguments: list[Argument] = [partition.state.generation, len(mine)]
        groups.append(Group([partition.state_key, partition.recent, *(partition.head + name for name in mine)], arguments))
    if groups:
        async with connection.limited():
            await connection.run(_RETIRE, (epoch, pattern.sequence), groups)
