"""The codec alone: what is written is read, and nothing else is ever read."""

from __future__ import annotations

import os
import random
from pathlib import Path
from random import Random

import orjson
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.entry import JSON, Entry, Origin, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq, Version
from cachesvc.tiers import dictionaries as trained
from cachesvc.tiers.codec import Codec, Corrupt, DictionaryUnknown, Newer
from cachesvc.tiers.dictionaries import FIRST, WINDOW, TrainedDictionaries
from tests.fakes import FakeClock
from tests.tiers.shelf import MemoryShelf

NOW = 1_790_000_000.123456


def an_entry(value: bytes, key: str = "product:1", version: int = 1_790_000_000_000_000, **others: object) -> Entry:
    entry = Entry(Key(key), Version(version), value, JSON, NOW, NOW, NOW + 86_400.0, content_hash(JSON, value))
    entry = entry._replace(**others)  # type: ignore[arg-type]
    return entry._replace(content_hash=content_hash(entry.content_type, value))


def records() -> list[bytes]:
    """Product records of `RECORDS_FILE` (NDJSON, the first line names the columns), else generated ones like them."""
    path = os.environ.get("RECORDS_FILE")
    if path:
        return Path(path).read_bytes().splitlines()[1:]
    r = random.Random(11)
    brands = ["Nokia", "Motorola", "Samsung", "Apple", "Sony", "Xiaomi", "Google"]
    words = ["Unlocked Phone", "Dual SIM", "64GB", "128GB", "Renewed", "GSM Carrier", "International Version", "Camera", "5G"]
    models = [f"{r.choice(brands)} {r.choice('ACGMSXZ')}{r.randrange(100)}" for _ in range(60)]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

    def one() -> bytes:
        name = "B0" + "".join(r.choices(letters, k=8))
        model = r.choice(models)
        title = f"{model} {' '.join(r.sample(words, k=r.randrange(2, 5)))} {r.choice(['Black', 'Silver', 'Gold', 'Blue'])}"
        url = f"https://www.shop.example/cell-phones/{model.replace(' ', '-')}/dp/{name}"
        image = (
            f"https://media.images.example/images/I/{''.join(r.choices(letters, k=11))}._AC_UY218_SEARCH213888_FMwebp_QL75_.jpg"
        )
        review = f"https://www.shop.example/product-reviews/{name}"
        return orjson.dumps(
            [
                name,
                model.split()[0],
                title,
                url,
                image,
                r.randrange(10, 50) / 10,
                review,
                r.randrange(500),
                f"${r.randrange(900)}.99",
            ]
        )

    return [one() for _ in range(792)]


def dictionaries(shelf: MemoryShelf | None = None) -> TrainedDictionaries:
    return TrainedDictionaries(shelf or MemoryShelf(), clock=FakeClock(), random=Random(1))


texts = st.text(st.characters(codec="utf-8"), max_size=20)
times = st.floats(0, 1e11, allow_nan=False)


@given(
    value=st.binary(max_size=300) | st.integers(1, 5_000).map(lambda n: b"repeated " * n),
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    version=st.integers(1, 2**53 - 1),
    content_type=st.just(JSON) | texts,
    created_at=st.just(NOW) | times,
    updated_at=st.just(NOW) | times,
    expires_at=st.none()
    | st.sampled_from([NOW + 0.5, NOW + 1, NOW + 40_000, NOW + 86_400, NOW + 3e7, NOW + 3e9, NOW - 1])
    | times,
    tags=st.lists(texts, max_size=3).map(tuple),
    origin=st.none() | st.builds(Origin, texts, st.integers(0, 2**53 - 1).map(Seq)),
)
def test_what_is_written_is_read(value: bytes, key: str, version: int, **others: object) -> None:
    entry = an_entry(value, key, version, **others)
    for compression in (True, False):
        stored = Codec(compression=compression).encode(entry)
        assert int.from_bytes(stored[1:8]) == version
        assert Codec().decode(entry.key, stored) == entry


def test_a_plain_json_value_costs_21_bytes() -> None:
    assert len(Codec().encode(an_entry(b"12"))) == 23


@pytest.mark.parametrize("value", [b"1", b"[1,2,3]" * 40])
def test_every_bit_that_is_wrong_is_noticed(value: bytes) -> None:
    entry = an_entry(value, tags=("t",))
    stored = Codec().encode(entry)
    for place in range(len(stored)):
        broken = stored[:place] + bytes([stored[place] ^ (1 << place % 8)]) + stored[place + 1 :]
        with pytest.raises(Corrupt):
            Codec().decode(entry.key, broken)
    for size in range(len(stored)):
        with pytest.raises(Corrupt):
            Codec().decode(entry.key, stored[:size])


def test_a_value_under_another_key_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        Codec().decode(Key("product:2"), Codec().encode(an_entry(b"12")))


def resealed(key: str, stored: bytes) -> bytes:
    """The bytes with a right checksum, as if a node had written them so."""
    check = xxhash.xxh3_64_intdigest(key.encode() + stored[:8] + stored[11:]) & 0xFFFFFF
    return stored[:8] + check.to_bytes(3) + stored[11:]


@pytest.mark.parametrize("first", [0x20, 0x18, 0xF0])
def test_another_format_is_of_a_newer_node(first: int) -> None:
    stored = Codec().encode(an_entry(b"12"))
    with pytest.raises(Newer):
        Codec().decode(Key("product:1"), resealed("product:1", bytes([first]) + stored[1:]))


def test_a_rare_field_not_known_is_of_a_newer_node() -> None:
    stored = Codec().encode(an_entry(b"12", tags=("t",)))
    with pytest.raises(Newer):
        Codec().decode(Key("product:1"), resealed("product:1", stored[:21] + bytes([stored[21] | 32]) + stored[22:]))


def test_a_bomb_is_not_unpacked() -> None:
    stored = Codec().encode(an_entry(b"a" * 1_000))
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(65 << 20))
    with pytest.raises(Corrupt):
        Codec().decode(Key("product:1"), resealed("product:1", stored[:21] + bomb))


async def test_a_value_names_the_dictionary_it_needs() -> None:
    shelf = MemoryShelf()
    writer, reader = dictionaries(shelf), dictionaries(shelf)
    values = records()[: FIRST + 1]
    for value in values:
        Codec(writer).encode(an_entry(value))
    await writer.maintain()
    entry = an_entry(values[0])
    stored = Codec(writer, compression=True).encode(entry)
    assert stored[20] == 1
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


async def test_records_become_much_smaller() -> None:
    """Half of the records was seen before; the other half is measured, header included."""
    values = records()
    known = dictionaries()
    codec = Codec(known)
    for value in values[::2]:
        codec.encode(an_entry(value))
    await known.maintain()
    unseen = values[1::2]
    raw = sum(map(len, unseen))
    stored = sum(len(codec.encode(an_entry(value, f"product:{i}"))) for i, value in enumerate(unseen))
    plain = sum(len(zstandard.ZstdCompressor(level=9, write_checksum=False).compress(value)) for value in unseen)
    print(
        f"{len(unseen)} records: {raw} bytes, {plain} by zstd alone, {stored} stored: {raw / stored:.2f}, {plain / stored:.2f}"
    )
    assert raw / stored >= 3.5
    assert plain / stored >= 2.5
