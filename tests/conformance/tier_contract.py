"""The contract of `ports.Tier`, as tests that every implementation passes on the real server behind it.

A subclass brings the fixture `tier`: an empty one with room for all of this, which stands at `AT` and is of its epoch. Only
what every tier can promise is in here; what a tier remembers of what it does not hold is its own business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachesvc.model.entry import JSON, Entry, Origin, content_hash, tombstone
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.ports import Tier

AT: Final = Position(Epoch(7), Seq(1_000))
WRITTEN: Final = Position(AT.epoch, Seq(0))  # the token of what was just written: its version is the token
KEYS: Final = [Key(name) for name in ("task:1", "task:2", "böard:🎈", "x")]


def an_entry(key: str = "task:1", version: int = 2_000, value: bytes = b'{"a":1}', **others: object) -> Entry:
    """An entry that ends in an hour, or as `others` say."""
    now = time.time()
    content_type = others.pop("content_type", JSON)
    assert isinstance(content_type, str)
    entry = Entry(
        Key(key),
        Version(version),
        value,
        content_type,
        now - 60.25,
        now - 1.5,
        now + 3_600.125,
        content_hash(content_type, value),
    )
    return entry._replace(**others)  # type: ignore[arg-type]


def gone(key: str, version: int) -> Entry:
    return tombstone(Key(key), Version(version), now=time.time(), keep=3_600.0)


class TierContract:
    """Inherit, and give `tier`."""

    @staticmethod
    async def got(tier: Tier, *keys: str) -> Mapping[Key, Entry]:
        return await tier.get([Key(key) for key in keys], horizon=AT)

    @pytest.mark.parametrize(
        "entry",
        [
            an_entry(),
            an_entry(value=b""),
            an_entry(value=bytes(range(256)) * 3, content_type="application/x-anything; v=1"),
            an_entry(value=b"\x28\xb5\x2f\xfd not a zstd frame"),
            an_entry(value=b"text " * 209_715, content_type="text/plain"),
            an_entry("🎈:" + "ü" * 20),
            an_entry("🎈" * 128),
            an_entry("k" * 512),
            an_entry("a b%2F/c:{1}:*?[x]\\"),
            an_entry(expires_at=None),
            an_entry(version=2**53 - 1),
            an_entry(
                tags=("t1", "tag two", "🎈"),
                parents=("task:2", "böard"),
                updated_by="ann",
                source="loader",
                origin=Origin("berlin", Seq(17)),
                vector=(("berlin", 17), ("oslo", 3)),
            ),
        ],
        ids=lambda entry: f"{entry.key[:12]}-{len(entry.value)}" if isinstance(entry, Entry) else None,
    )
    async def test_what_is_put_is_got_back_with_all_its_fields(self, tier: Tier, entry: Entry) -> None:
        assert list(await tier.put([entry], token=AT)) == [entry]
        assert await self.got(tier, entry.key) == {entry.key: entry}

    async def test_what_is_not_held_is_not_in_the_answer(self, tier: Tier) -> None:
        await tier.put([an_entry("a")], token=AT)
        assert set(await self.got(tier, "a", "b")) == {"a"}
        assert await self.got(tier) == {}

    async def test_nothing_put_and_nothing_evicted_is_no_error(self, tier: Tier) -> None:
        assert list(await tier.put([], token=AT)) == []
        await tier.evict([])

    async def test_an_entrys_own_version_is_a_token(self, tier: Tier) -> None:
        entry = an_entry(version=AT.sequence + 1)
        assert list(await tier.put([entry], token=WRITTEN)) == [entry]
        assert await self.got(tier, entry.key) == {entry.key: entry}

    async def test_the_newer_replaces_the_older(self, tier: Tier) -> None:
        older, newer = an_entry(version=2_000), an_entry(version=2_001, value=b"2")
        await tier.put([older], token=AT)
        assert list(await tier.put([newer], token=AT)) == [newer]
        assert await self.got(tier, "task:1") == {"task:1": newer}

    async def test_the_older_is_not_kept_and_the_winner_is_returned(self, tier: Tier) -> None:
        newer, older = an_entry(version=2_001, value=b"2"), an_entry(version=2_000)
        await tier.put([newer], token=AT)
        assert list(await tier.put([older], token=AT)) == [newer]
        assert await self.got(tier, "task:1") == {"task:1": newer}

    async def test_versions_compare_as_numbers(self, tier: Tier) -> None:
        nine, ten = an_entry(version=9_999_999_999_999_999 // 2), an_entry(version=10_000_000_000_000_000 // 2, value=b"2")
        await tier.put([ten], token=AT)
        assert list(await tier.put([nine], token=AT)) == [ten]

    async def test_the_same_version_again_is_kept(self, tier: Tier) -> None:
        entry = an_entry()
        await tier.put([entry], token=AT)
        assert [winner.version for winner in await tier.put([entry], token=AT)] == [entry.version]
        assert await self.got(tier, entry.key) == {entry.key: entry}

    async def test_winners_come_in_the_order_of_the_entries(self, tier: Tier) -> None:
        held = [an_entry(f"k{i}", version=5_000 + i, value=b"%d" % i) for i in range(0, 300, 3)]
        await tier.put(held, token=AT)
        entries = [an_entry(f"k{i}", version=4_000 + i, value=b"-%d" % i) for i in range(300)]
        winners = await tier.put(entries, token=AT)
        expected: Sequence[Entry] = [held[i // 3] if i % 3 == 0 else entries[i] for i in range(300)]
        assert list(winners) == expected
        assert await self.got(tier, *(entry.key for entry in entries)) == {entry.key: entry for entry in expected}

    async def test_one_key_twice_in_a_put_keeps_the_newer(self, tier: Tier) -> None:
        first, second, third = (an_entry(version=2_000 + v, value=b"%d" % v) for v in (1, 3, 2))
        assert list(await tier.put([first, second, third], token=AT)) == [first, second, second]
        assert await self.got(tier, "task:1") == {"task:1": second}

    async def test_a_tombstone_removes_what_is_older(self, tier: Tier) -> None:
        await tier.put([an_entry("a", 2_000), an_entry("b", 2_000)], token=AT)
        dead = gone("a", 2_001)
        assert list(await tier.put([dead], token=AT)) == [dead]
        assert set(await self.got(tier, "a", "b")) == {"b"}

    async def test_a_tombstone_of_what_is_not_held_is_not_served(self, tier: Tier) -> None:
        await tier.put([gone("a", 2_001)], token=AT)
        assert await self.got(tier, "a") == {}

    async def test_an_older_tombstone_removes_nothing(self, tier: Tier) -> None:
        entry = an_entry("a", 2_001)
        await tier.put([entry], token=AT)
        assert list(await tier.put([gone("a", 2_000)], token=AT)) == [entry]
        assert await self.got(tier, "a") == {"a": entry}

    async def test_what_is_newer_than_a_tombstone_enters(self, tier: Tier) -> None:
        await tier.put([gone("a", 2_001)], token=AT)
        entry = an_entry("a", 2_002)
        assert list(await tier.put([entry], token=AT)) == [entry]
        assert await self.got(tier, "a") == {"a": entry}

    async def test_what_is_past_its_life_is_not_served(self, tier: Tier) -> None:
        await tier.put([an_entry("a", expires_at=time.time() - 1.0)], token=AT)
        assert await self.got(tier, "a") == {}

    async def test_what_is_past_its_life_still_takes_the_place_of_what_is_older(self, tier: Tier) -> None:
        await tier.put([an_entry("a", 2_000)], token=AT)
        await tier.put([an_entry("a", 2_001, expires_at=time.time() - 1.0)], token=AT)
        assert await self.got(tier, "a") == {}

    async def test_evicted_is_forgotten_not_deleted(self, tier: Tier) -> None:
        entries = [an_entry("a"), an_entry("b")]
        await tier.put(entries, token=AT)
        await tier.evict([Key("a"), Key("never held")])
        assert set(await self.got(tier, "a", "b")) == {"b"}
        assert list(await tier.put(entries[:1], token=AT)) == entries[:1]
        assert set(await self.got(tier, "a", "b")) == {"a", "b"}

    @pytest.mark.parametrize(
        ("pattern", "matching"),
        [
            ("*", {"task:1", "task:12", "task:1:x", "tusk:1", "a.b", "aXb", "🎈", "*lit"}),
            ("task:*", {"task:1", "task:12", "task:1:x"}),
            ("t?sk:1", {"task:1", "tusk:1"}),
            ("t[a-m]sk:*", {"task:1", "task:12", "task:1:x"}),
            ("*:1", {"task:1", "tusk:1"}),
            ("a.b", {"a.b"}),
            ("?", {"🎈"}),
            (r"\*lit", {"*lit"}),
            ("nothing:*", set()),
            ("deleted*", set()),
        ],
    )
    async def test_scan_yields_what_matches_with_its_version(self, tier: Tier, pattern: str, matching: set[str]) -> None:
        names = ["task:1", "task:12", "task:1:x", "tusk:1", "a.b", "aXb", "🎈", "*lit"]
        versions = {name: 2_000 + i for i, name in enumerate(names)}
        await tier.put([an_entry(name, version) for name, version in versions.items()], token=AT)
        await tier.put([an_entry("deleted", 2_100)], token=AT)
        await tier.put([gone("deleted", 2_101)], token=AT)
        found = {key: version async for key, version in tier.scan(parse_pattern(pattern))}
        assert found == {name: versions[name] for name in matching}

    async def test_scan_finds_all_of_many(self, tier: Tier) -> None:
        names = [f"many:{i}" for i in range(2_500)]
        await tier.put([an_entry(name) for name in names], token=AT)
        assert {key async for key, _ in tier.scan(parse_pattern("many:*"))} == set(names)

    async def test_stats_count_hits_and_misses(self, tier: Tier) -> None:
        before = await tier.stats()
        await tier.put([an_entry("a")], token=AT)
        await self.got(tier, "a", "b", "c")
        after = await tier.stats()
        assert (after.hits - before.hits, after.misses - before.misses) == (1, 2)
        assert after.entries is None or after.entries >= 1  # a store that is shared counts what is not its own, too

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(1_001, 1_020)),
                st.tuples(st.just("delete"), st.sampled_from(KEYS), st.integers(1_001, 1_020)),
                st.tuples(st.just("evict"), st.sampled_from(KEYS), st.just(0)),
            ),
            max_size=25,
        )
    )
    async def test_it_is_a_dictionary_that_keeps_the_newer(self, tier: Tier, steps: list[tuple[str, Key, int]]) -> None:
        """An independent model. A tier may remember what it does not hold: then what is older than that may be absent."""
        await tier.evict(KEYS)
        # keys of this example only: what is remembered of one before says nothing here
        run = time.monotonic_ns()
        held: dict[Key, Entry] = {}
        known: dict[Key, int] = {}
        for step, name, version in steps:
            key = Key(f"{name}:{run}")
            if step == "evict":
                await tier.evict([key])
                held.pop(key, None)
            else:
                entry = an_entry(key, version, b"%d" % version, expires_at=None, created_at=1.0, updated_at=float(version))
                if step == "delete":
                    entry = gone(key, version)
                (winner,) = await tier.put([entry], token=AT)
                current = held.get(key)
                if current is not None and current.version > version:
                    assert winner == current
                elif current is not None and current.version == version:
                    # of one version there is only one content; a log never gives both
                    assert winner.version == version
                    await tier.evict([key])
                    held.pop(key)
                elif entry.deleted:
                    held.pop(key, None)
                else:
                    held[key] = entry
                    if winner.version != version:
                        assert version < known[key]
                known[key] = max(known.get(key, 0), version)
            found = await self.got(tier, key)
            if key not in held:
                assert found == {}
            elif held[key].version < known[key] and not found:
                del held[key]
            else:
                assert found == {key: held[key]}
        await tier.evict(list(known))
