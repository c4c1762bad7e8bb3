from __future__ import annotations

import lzma
import struct
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tests.load.popularity import Trace, Zipf, read_trace


def test_zipf_asks_for_the_first_r_times_as_often_as_for_the_rth() -> None:
    zipf = Zipf(100, 1.0, seed=1, prefix="load:")
    counts = Counter(islice(zipf.reads(Random(1)), 50_000))
    assert counts[zipf.keys[0]] / counts[zipf.keys[3]] == pytest.approx(4, rel=0.15)
    assert set(counts) == set(zipf.keys) == {f"load:{i}" for i in range(100)}


def test_without_skew_all_keys_are_alike() -> None:
    counts = Counter(islice(Zipf(10, 0.0, seed=1, prefix="").reads(Random(1)), 20_000))
    assert all(count == pytest.approx(2_000, rel=0.15) for count in counts.values())


def test_a_seed_asks_for_the_same_again() -> None:
    def some(seed: int) -> list[str]:
        return list(islice(Zipf(100, 1.0, seed=seed, prefix="").reads(Random(seed)), 50))

    assert some(7) == some(7) != some(8)


@pytest.mark.parametrize("name", ["a.trace", "a.trace.xz"])
def test_a_trace_is_walked_by_all_readers_together_and_over_again(tmp_path: Path, name: str) -> None:
    content = struct.pack(">4i", 7, -1, 7, 70_000)
    (tmp_path / name).write_bytes(lzma.compress(content) if name.endswith(".xz") else content)
    trace = Trace(read_trace(tmp_path / name), prefix="t:")
    one, other = trace.reads(Random(1)), trace.reads(Random(2))
    assert [next(one), next(other), next(one), next(other), next(one)] == ["t:7", "t:-1", "t:7", "t:70000", "t:7"]
    assert sorted(trace.keys) == ["t:-1", "t:7", "t:70000"]
    assert set(islice(trace.writes(Random(1)), 100)) == set(trace.keys)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.trace", b"", "must hold 1 to"),
        ("a.trace", b"12345", "numbers of 4 bytes"),
        ("a.trace.xz", b"1234", "is not an .xz file"),
        ("a.trace.xz", lzma.compress(bytes(4_000))[:-20], "is not an .xz file"),
    ],
)
def test_a_file_that_is_no_trace(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=text):
        read_trace(tmp_path / name)


def test_more_keys_than_the_checker_remembers() -> None:
    with pytest.raises(ValueError, match="has 200001 keys"):
        Trace(range(200_001), prefix="")
