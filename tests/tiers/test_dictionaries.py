"""Dictionaries alone, and what the codec makes of them."""

from __future__ import annotations

import random
from random import Random

import orjson
import pytest
import zstandard

from cachesvc.tiers import dictionaries as trained
from cachesvc.tiers.codec import Codec, DictionaryUnknown
from cachesvc.tiers.dictionaries import FIRST, WINDOW, TrainedDictionaries
from tests.fakes import FakeClock
from tests.tiers.shelf import MemoryShelf
from tests.tiers.values import an_entry, records


def dictionaries(shelf: MemoryShelf | None = None) -> TrainedDictionaries:
    return TrainedDictionaries(shelf or MemoryShelf(), clock=FakeClock(), random=Random(1))


async def test_a_value_names_the_dictionary_it_needs() -> None:
    shelf = MemoryShelf()
    writer, reader = dictionaries(shelf), dictionaries(shelf)
    values = records()[: FIRST + 1]
    for value in values:
        Codec(writer).encode(an_entry(value))
    await writer.maintain()
    entry = an_entry(values[0])
    stored = Codec(writer, compression=True).encode(entry)
    assert stored[11] == 1
    with pytest.raises(DictionaryUnknown) as raised:
        Codec(reader).decode(entry.key, stored)
    assert await reader.fetch({raised.value.number})
    assert Codec(reader).decode(entry.key, stored) == entry


async def test_an_id_that_is_nowhere_is_not_asked_for_again_and_again() -> None:
    shelf, clock = MemoryShelf(), FakeClock()
    found = TrainedDictionaries(shelf, clock=clock, random=Random(1))
    for _ in range(5):
        assert not await found.fetch({9})
    assert shelf.asked == 1
    clock.advance(60)
    assert not await found.fetch({9})
    assert shelf.asked == 2


async def test_ids_over_255_fit() -> None:
    shelf = MemoryShelf()
    shelf.rows = [(number, "other", b"x" * 64) for number in range(1, 300)]
    known = dictionaries(shelf)
    for value in records()[:FIRST]:
        Codec(known).encode(an_entry(value))
    await known.maintain()
    entry = an_entry(records()[0])
    assert shelf.rows[-1][:2] == (300, "product")
    assert Codec(known).decode(entry.key, Codec(known).encode(entry)) == entry
    assert len(known) == trained.MAX_HELD


async def test_what_has_nothing_in_common_gets_no_dictionary() -> None:
    shelf = MemoryShelf()
    known = dictionaries(shelf)
    r = random.Random(3)
    for _ in range(FIRST):
        known.compress("image", r.randbytes(300))
    await known.maintain()
    assert shelf.rows == []


async def test_a_dictionary_is_trained_anew_when_its_ratio_has_fallen() -> None:
    shelf = MemoryShelf()
    known = dictionaries(shelf)
    for value in records()[:FIRST]:
        known.compress("product", value)
    await known.maintain()
    assert [row[:2] for row in shelf.rows] == [(1, "product")]
    for value in (records() * 2)[:WINDOW]:
        known.compress("product", value)
    await known.maintain()
    assert len(shelf.rows) == 1  # as good as ever
    for i in range(WINDOW):
        known.compress(
            "product", orjson.dumps({"order": i * 7_919, "customer": f"c{i % 97}", "state": "shipped", "lines": [i, i + 1]})
        )
    await known.maintain()
    assert len(shelf.rows) == 2
    assert known.compress("product", records()[0])[0] == 2  # type: ignore[index]


def test_modules_watched_are_bounded() -> None:
    known = dictionaries()
    for i in range(10 * trained.MAX_MODULES):
        known.compress(f"module{i}", b"value")
    assert len(known._modules) == trained.MAX_MODULES


async def trained_on(values: list[bytes]) -> TrainedDictionaries:
    known = dictionaries()
    for value in values:
        known.compress("product", value)
    await known.maintain()
    return known


async def test_a_frame_is_known_by_its_block() -> None:
    known = await trained_on(records()[:FIRST])
    for value in (records()[-1], records()[-1] * 5, records()[-1] * 11):  # windows of 1, 2 and 4 KiB
        found = known.compress("product", value)
        assert found is not None
        assert known.decompress(*found, 4096) == value
    noise = random.Random(5).randbytes(300)
    assert known.compress("product", noise) == (1, noise)  # a block of another kind


async def test_a_value_whose_frame_is_not_one_compressed_block_is_read_again() -> None:
    codec = Codec(await trained_on(records()[:FIRST]))
    for value in (b"a" * 300, b"a" * 30, random.Random(5).randbytes(300)):
        entry = an_entry(value)
        assert codec.decode(entry.key, codec.encode(entry)) == entry


async def test_a_block_that_is_broken_or_too_long_is_refused() -> None:
    known = await trained_on(records()[:FIRST])
    found = known.compress("product", records()[0])
    assert found is not None
    number, block = found
    for broken in (block[:-1], block + b"\0", bytes(4 << 20)):
        with pytest.raises(zstandard.ZstdError):
            known.decompress(number, broken, 4096)


async def test_a_dictionary_ends_with_the_newest_values() -> None:
    values = records()
    data = trained.train(values, None)
    assert data is not None
    assert len(data) == trained.MAX_DICTIONARY
    assert data.endswith(b"".join(values[-300:]))
    few = trained.train(values[:FIRST], None)
    assert few is not None
    assert few.endswith(b"".join(values[:FIRST]))


async def stored_of(seen: list[bytes], unseen: list[bytes]) -> int:
    """Bytes stored of `unseen`, headers included, after `seen` has passed through."""
    codec = Codec(await trained_on(seen))
    return sum(len(codec.encode(an_entry(value, f"product:{i}"))) for i, value in enumerate(unseen))


async def test_more_samples_make_no_worse_a_dictionary() -> None:
    """By more than one in a hundred: which of two good dictionaries fits better is chance."""
    values = records()
    sizes = [await stored_of(values[:count], values[700:]) for count in (FIRST, 400, 700)]
    assert max(sizes[1:]) <= 1.01 * sizes[0]


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
async def test_records_become_much_smaller(seed: int | None) -> None:
    """A random half of the records (without a seed: every second) was seen before; the other half is measured."""
    values = records()
    if seed is None:
        values = values[::2] + values[1::2]
    else:
        random.Random(seed).shuffle(values)
    half = len(values) // 2
    seen, unseen = values[:half], values[half:]
    raw = sum(map(len, unseen))
    stored = await stored_of(seen, unseen)
    plain = sum(len(zstandard.ZstdCompressor(level=9, write_checksum=False).compress(value)) for value in unseen)
    print(f"{half} records: {raw} bytes, {plain} by zstd alone, {stored} stored: {raw / stored:.2f}, {plain / stored:.2f}")
    assert raw / stored >= 3.5
    assert plain / stored >= 2.5
