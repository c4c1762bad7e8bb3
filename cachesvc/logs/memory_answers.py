"""The answers that the memory authority keeps, for who asks again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from cachesvc.logs.outcomes import batches_of, pack_result, results_of_batches, unpack_result
from cachesvc.model.fold_state import Result
from cachesvc.ports import Clock

_ANSWERS_BYTES: Final = 32 << 20


class Answers:
    """Kept answers, in the order of their time: by idempotency key, and by batch. The oldest go first."""

    def __init__(self, clock: Clock, ttl: float) -> None:
        self._clock = clock
        self._ttl = ttl
        self._kept: OrderedDict[tuple[str, ...], tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def find(self, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Result]:
        batches = {batch: kept[1] for batch in batches_of(wanted) if (kept := self._kept.get((batch,))) is not None}
        own = {key: unpack_result(kept[1]) for key in wanted if (kept := self._kept.get(key)) is not None}
        return results_of_batches(wanted, batches) | own

    def keep(self, results: Mapping[tuple[str, str], Result], batch: str, record: bytes) -> None:
        until = self._clock.now() + self._ttl
        self._add((batch,), until, record)
        for key, result in results.items():
            self._add(key, until, pack_result(result))
        while self._bytes > _ANSWERS_BYTES:
            self._drop_oldest()

    def sweep(self, limit: int) -> int:
        now = self._clock.now()
        dropped = 0
        while dropped < limit and self._kept and next(iter(self._kept.values()))[0] <= now:
            self._drop_oldest()
            dropped += 1
        return dropped

    def _add(self, key: tuple[str, ...], until: float, record: bytes) -> None:
        self._kept[key] = until, record
        self._bytes += len(record) + 200

    def _drop_oldest(self) -> None:
        _, (_, record) = self._kept.popitem(last=False)
        self._bytes -= len(record) + 200
