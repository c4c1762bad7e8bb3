"""The codec alone: what is written is read, and nothing else is ever read."""

from __future__ import annotations

from pathlib import Path
from random import Random

import orjson
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.entry import JSON, Origin
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq
from cachesvc.tiers.codec import Codec, Corrupt, Newer
from cachesvc.tiers.dictionaries import TrainedDictionaries
from tests.fakes import FakeClock
from tests.tiers.shelf import MemoryShelf
from tests.tiers.values import MONTH, NOW, an_entry

GOLDEN = Path(__file__).parent / "golden" / "stored.json"
HEADER = 20  # of what was written in the second month of an epoch
MICROSECOND = int(NOW * 1_000_000)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
times = st.floats(0, 1e11, allow_nan=False)


@given(
    value=st.binary(max_size=300) | st.integers(1, 5_000).map(lambda n: b"repeated " * n),
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    version=st.integers(1, 2**53 - 1) | st.integers(-(10**15), 10**10).map(lambda n: MICROSECOND + n),
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


@pytest.mark.parametrize(("age", "size"), [(1, 18), (1_000, 18), (MONTH / 30, 19), (MONTH, 20), (40 * MONTH, 21), (-1, 21)])
def test_the_younger_the_epoch_the_shorter_the_time(age: float, size: int) -> None:
    entry = an_entry(b"12", version=MICROSECOND - int(age * 1_000_000))
    stored = Codec().encode(entry)
    assert len(stored) == size + len(entry.value)
    assert Codec().decode(entry.key, stored) == entry


async def test_what_was_written_before_is_still_read() -> None:
    golden = orjson.loads(GOLDEN.read_bytes())
    shelf = MemoryShelf()
    shelf.rows = [(1, "product", golden["dictionary"].encode())]
    known = TrainedDictionaries(shelf, clock=FakeClock(), random=Random(1))
    await known.maintain()
    origin = Origin("paris", Seq(41))
    value, long = b'{"name":"phone","colour":"black","price":3}', b'{"n":[%s]}' % b",".join([b"12345"] * 40)
    entries = {
        "plain": an_entry(b"12"),
        "first minute": an_entry(b"12", version=MICROSECOND - 1_000_000),
        "before the version": an_entry(b"12", version=MICROSECOND + 1_000_000),
        "days": an_entry(b"12", expires_at=NOW + 20 * 86_400),
        "for ever": an_entry(b"12", expires_at=None),
        "created before": an_entry(b"12", created_at=NOW - 1),
        "exact times": an_entry(b"12", created_at=0.1, updated_at=0.2, expires_at=0.3),
        "details": an_entry(
            b"<a/>", content_type="text/xml", tags=("t",), parents=("p",), origin=origin, vector=(("paris", 3),)
        ),
        "zstd": an_entry(long, key="other:1"),
        "dictionary": an_entry(value),
    }
    # what zstd makes of a value may change with its version: that is read, the rest is also written the same
    stored = {name: bytes.fromhex(text) for name, text in golden["stored"].items()}
    assert {name: Codec(known).decode(entry.key, stored[name]) for name, entry in entries.items()} == entries
    written = {name: Codec(known).encode(entry) for name, entry in entries.items()}
    same = entries.keys() - {"zstd", "dictionary"}
    assert {name: written[name] for name in same} == {name: stored[name] for name in same}
    assert [stored[name][0] & 3 for name in ("plain", "zstd", "dictionary")] == [0, 1, 2]


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


@pytest.mark.parametrize("first", [0x30 | 3, 0x40, 0x10, 0xE0])
def test_another_format_is_of_a_newer_node(first: int) -> None:
    stored = Codec().encode(an_entry(b"12"))
    with pytest.raises(Newer):
        Codec().decode(Key("product:1"), resealed("product:1", bytes([first]) + stored[1:]))


def test_a_rare_field_not_known_is_of_a_newer_node() -> None:
    stored = Codec().encode(an_entry(b"12", tags=("t",)))
    with pytest.raises(Newer):
        Codec().decode(
            Key("product:1"), resealed("product:1", stored[:HEADER] + bytes([stored[HEADER] | 32]) + stored[HEADER + 1 :])
        )


def test_a_bomb_is_not_unpacked() -> None:
    stored = Codec().encode(an_entry(b"a" * 1_000))
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(65 << 20))
    with pytest.raises(Corrupt):
        Codec().decode(Key("product:1"), resealed("product:1", stored[:HEADER] + bomb))
