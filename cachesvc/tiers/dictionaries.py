"""Dictionaries: what the values of a module have in common, trained from what passes through and shared by all nodes.

A dictionary never changes and is never forgotten by the authority, so a value that names one stays readable by every node.

A module gets its first dictionary after 256 values. From then on its ratio is watched in windows of 1,024 values: when it
falls under 0.8 of what the first window gave, a new one is trained from that window. A candidate is judged on an eighth of
the samples that it was not trained on, and kept only if it makes them at least a tenth smaller than what is used so far.
"""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Final, Protocol

import zstandard

from cachesvc.ports import Clock

FIRST: Final = 256  # values seen before a module's first dictionary
WINDOW: Final = 1024  # values over which the ratio is taken, and at most kept as samples
WORSE: Final = 0.8
GAIN: Final = 0.9
MAX_DICTIONARY: Final = 128 << 10
MAX_MODULES: Final = 32  # watched at once; the least recently written are let go
MAX_HELD: Final = 256  # dictionaries kept in memory, the newest
ASK_AGAIN: Final = 5.0  # seconds before an id that was not found is asked for again

# Measured on 350-byte JSON: 4 µs, where binary trees (btlazy2, as levels 9 and up) take 11 to 15 for two or three per cent
# less, and the double hash of level 3 takes 2 for five to eight per cent more. The hash log is that of a dictionary.
_PARAMETERS: Final = zstandard.ZstdCompressionParameters(
    format=zstandard.FORMAT_ZSTD1_MAGICLESS,
    window_log=17,
    chain_log=17,
    hash_log=17,
    search_log=7,
    min_match=5,
    strategy=zstandard.STRATEGY_GREEDY,
    write_content_size=False,
    write_checksum=False,
    write_dict_id=False,
)

# A frame of these parameters (RFC 8878, 3.1.1) that holds one compressed block can be told from the block alone: the
# descriptor is 0, any window will do that is not smaller than the one it was written with, and the block's header
# (3.1.1.2) says "last", "compressed" and its size. Left out, these are five bytes less.
_FRAME: Final = b"\0\x10"  # the window: 4 KiB
_BLOCK: Final = 5  # where the block begins
_LAST_COMPRESSED: Final = 5

# Where the tables of a trained dictionary end (RFC 8878, 6): three recent offsets, which zstd's trainer leaves at 1, 4, 8.
_OFFSETS: Final = struct.pack("<3I", 1, 4, 8)


class Shelf(Protocol):
    """Where the nodes share dictionaries: two calls of `ports.Registry`."""

    async def add_dictionary(self, module: str, data: bytes) -> int: ...

    async def dictionaries(self, *, after: int) -> Sequence[tuple[int, str, bytes]]: ...


@dataclass(slots=True)
class _Module:
    """What passes through of one module."""

    number: int = 0  # its dictionary, 0: none yet
    compressor: zstandard.ZstdCompressor | None = None
    samples: list[bytes] = field(default_factory=list)
    seen: int = 0
    raw: int = 0
    stored: int = 0
    best: float | None = None  # the ratio of the dictionary's first window
    due_at: int = FIRST  # values seen at which the first dictionary is tried
    worse: bool = False

    @property
    def due(self) -> bool:
        return self.worse or (self.number == 0 and self.seen >= self.due_at)

    def begin_window(self) -> None:
        self.samples.clear()
        self.seen = self.raw = self.stored = 0
        self.worse = False


class TrainedDictionaries:
    """The dictionaries of all modules, as far as this node knows them. Used on the event loop only."""

    def __init__(self, shelf: Shelf, *, clock: Clock, random: Random) -> None:
        self._shelf = shelf
        self._clock = clock
        self._random = random.random
        self._held: OrderedDict[int, tuple[str, bytes]] = OrderedDict()
        self._newest: dict[str, int] = {}
        self._decompressors: dict[int, zstandard.ZstdDecompressor] = {}
        self._modules: OrderedDict[str, _Module] = OrderedDict()
        self._last = 0
        self._asked: dict[int, float] = {}
        self._fetching = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def compress(self, module: str, value: bytes) -> tuple[int, bytes] | None:
        """The dictionary's id and the frame's one block, or the value where zstd found nothing in it; None without one.

        The value may become a sample.
        """
        watched = self._modules.get(module) or self._watch(module)
        self._modules.move_to_end(module)
        self._sample(watched, value)
        if watched.compressor is None:
            return None
        number, frame = watched.number, watched.compressor.compress(value)
        watched.raw += len(value)
        watched.stored += len(frame)
        if watched.seen >= WINDOW and not watched.worse:
            self._close_window(watched)
        block = frame[_BLOCK:]
        known = frame[0] == _FRAME[0] and frame[1] <= _FRAME[1] and frame[2:_BLOCK] == _frame_of(len(block))[2:]
        return number, block if known else value

    def decompress(self, number: int, block: bytes, limit: int) -> bytes:
        """The value. Raises `KeyError` for a dictionary that is not loaded, `ZstdError` for a bad block."""
        if len(block) > limit:
            raise zstandard.ZstdError("longer than what it may hold")
        decompressor = self._decompressors.get(number)
        if decompressor is None:
            data = zstandard.ZstdCompressionDict(self._held[number][1])
            decompressor = zstandard.ZstdDecompressor(dict_data=data, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
            self._decompressors[number] = decompressor
        return decompressor.decompress(_frame_of(len(block)) + block, max_output_size=limit)

    async def fetch(self, numbers: Collection[int]) -> bool:
        """Load these dictionaries, seen in values; whether any of them is there now. Raises `TierUnavailable`."""
        async with self._fetching:
            now = self._clock.monotonic()
            missing = [n for n in numbers if n not in self._held and self._asked.get(n, -ASK_AGAIN) + ASK_AGAIN <= now]
            if missing:
                if len(self._asked) >= MAX_HELD:
                    self._asked.clear()
                self._asked.update(dict.fromkeys(missing, now))
                # not after the last one known: ids become visible out of order
                self._take(await self._shelf.dictionaries(after=min(missing) - 1))
        return any(n in self._held for n in numbers)

    async def maintain(self) -> None:
        """Load what other nodes trained, then train where it is due. Raises `TierUnavailable`."""
        self._take(await self._shelf.dictionaries(after=self._last))
        for module in [name for name, watched in self._modules.items() if watched.due]:
            watched = self._modules.get(module)
            if watched is None or not watched.due:
                continue
            samples = list(watched.samples)
            used = self._held[watched.number][1] if watched.number in self._held else None
            data = await asyncio.to_thread(train, samples, used)
            if data is None:
                # not worth it: look again when much more was seen, or when it has become yet worse
                watched.due_at = 4 * max(watched.seen, FIRST)
                watched.best = watched.raw / watched.stored if watched.stored else None
                if watched.number:
                    watched.begin_window()
                continue
            number = await self._shelf.add_dictionary(module, data)
            self._take([(number, module, data)])

    def _watch(self, module: str) -> _Module:
        while len(self._modules) >= MAX_MODULES:
            self._modules.popitem(last=False)
        watched = self._modules[module] = _Module()
        self._use(watched, self._newest.get(module, 0))
        return watched

    def _sample(self, watched: _Module, value: bytes) -> None:
        """Reservoir sampling (Vitter's algorithm R): each value of the window is kept with the same chance."""
        watched.seen += 1
        if len(watched.samples) < WINDOW:
            watched.samples.append(value)
        else:
            place = int(self._random() * watched.seen)
            if place < WINDOW:
                watched.samples[place] = value

    def _close_window(self, watched: _Module) -> None:
        ratio = watched.raw / watched.stored
        if watched.best is None:
            watched.best = ratio
        if ratio < WORSE * watched.best:
            watched.worse = True
        else:
            watched.begin_window()

    def _take(self, found: Sequence[tuple[int, str, bytes]]) -> None:
        """Hold these dictionaries; each module goes on with its newest."""
        for number, module, data in found:
            self._held[number] = (module, data)
            self._last = max(self._last, number)
            if number > self._newest.get(module, 0):
                self._newest[module] = number
                watched = self._modules.get(module)
                if watched is not None:
                    self._use(watched, number)
        while len(self._held) > MAX_HELD:
            oldest = min(self._held)
            module, _ = self._held.pop(oldest)
            self._decompressors.pop(oldest, None)
            if self._newest.get(module) == oldest:
                del self._newest[module]

    def _use(self, watched: _Module, number: int) -> None:
        held = self._held.get(number)
        if held is None:
            return
        watched.number = number
        watched.compressor = _compressor(held[1])
        watched.best = None
        watched.begin_window()


def train(samples: Sequence[bytes], used: bytes | None) -> bytes | None:
    """A dictionary for such values; None if it gains too little over the one used so far. Long: not for the event loop."""
    held_out = samples[::8]
    candidate = _dictionary([sample for place, sample in enumerate(samples) if place % 8])
    if candidate is None:
        return None
    so_far = _compressor(used) if used is not None else zstandard.ZstdCompressor(level=3, write_checksum=False)
    if _total(_compressor(candidate), held_out) > GAIN * _total(so_far, held_out):
        return None
    return _dictionary(samples)


def _dictionary(samples: Sequence[bytes]) -> bytes | None:
    """The tables of zstd's trainer before the newest samples themselves.

    The trainer chooses pieces; whole samples make records in the order of their coming 7 % smaller, in random order 4 %.
    """
    # pieces of a third of the samples at most: of more than half, the tables would expect values known by heart
    size = min(MAX_DICTIONARY, sum(map(len, samples)) // 3)
    try:
        trained = zstandard.train_dictionary(size, list(samples), level=9).as_bytes()
    except zstandard.ZstdError:
        return None  # too few, or nothing in common: zstd cannot make one
    tables, offsets, pieces = trained.partition(_OFFSETS)
    room = MAX_DICTIONARY - len(tables) - len(offsets)
    return tables + offsets + b"".join(samples)[-room:] if pieces else trained


@lru_cache(4096)
def _frame_of(size: int) -> bytes:
    """What comes before a block of that size."""
    return _FRAME + (size << 3 | _LAST_COMPRESSED).to_bytes(3, "little")


def _compressor(data: bytes) -> zstandard.ZstdCompressor:
    dictionary = zstandard.ZstdCompressionDict(data)
    dictionary.precompute_compress(compression_params=_PARAMETERS)
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=_PARAMETERS)


def _total(compressor: zstandard.ZstdCompressor, values: Sequence[bytes]) -> int:
    return sum(min(len(compressor.compress(value)), len(value)) for value in values)
