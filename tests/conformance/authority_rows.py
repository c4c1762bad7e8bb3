"""The contract of what an authority holds: how entries end, how they are listed, and what the nodes share.

The authority's own clock decides; the tests wait for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cachesvc.errors import InvalidInput, Refusal
from cachesvc.model.change import (
    ABSENT,
    Kind,
    invalidate,
)
from cachesvc.model.fold_state import Terms
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Position, Seq
from cachesvc.ports import Authority, NodeRecord
from tests.conformance.authority_store import (
    EVERYTHING,
    SHORT,
    Store,
    add,
    append,
    delete,
    entry_at,
    expire,
    fill,
    passed,
    put,
    receipts,
    refusal,
    values,
)


class Rows:
    """Expiry, listing, leases, nodes and dictionaries."""

    async def test_expired_entries_end_by_a_change(self, authority: Authority) -> None:
        appended = await append(authority, put("b", ttl=SHORT), put("a", ttl=2 * SHORT), put("c"), put("d", ttl=SHORT))
        b, a, _, d = (receipt.version for receipt in receipts(appended))
        await passed(authority, await authority.time() + 3 * SHORT)
        await append(authority, put("d", b"2"))  # written since: it lives on
        assert list(await authority.expired(limit=10)) == [(Key("b"), b), (Key("a"), a)]
        assert list(await authority.expired(limit=1)) == [(Key("b"), b)]
        before = await authority.head()
        ended = await append(authority, expire("b", b), expire("a", a), expire("d", d), expire("c", a))
        assert [refusal(ended, 2), refusal(ended, 3)] == [Refusal.VERSION_CONFLICT] * 2
        records = await authority.read(before, 10)
        assert [(record.kind, record.key, record.entry) for record in records] == [
            (Kind.EXPIRE, "b", None),
            (Kind.EXPIRE, "a", None),
        ]
        assert await values(authority, "a", "b", "c", "d") == [None, None, b"1", b"2"]
        assert list(await authority.expired(limit=10)) == []

    async def test_an_outline_is_what_is_got_but_for_the_values(self, authority: Authority) -> None:
        many = tuple(f"tag-{n}-{'x' * 200}" for n in range(100))
        drafts = [put("a", b'"1"', tags=("t",)), put("b", b"\0" * 10_000), put("c"), put("long", b"2", tags=many), delete("c")]
        await append(authority, *drafts)
        keys = [Key(key) for key in ("a", "b", "c", "long", "never")]
        horizon = await authority.head()
        held = await authority.get(keys, horizon=horizon)
        before = await authority.stats()
        outlined = await authority.outline(keys, horizon=horizon)
        assert outlined == {key: entry._replace(value=b"") for key, entry in held.items()}
        assert {"a", "b", "long"} <= outlined.keys()
        after = await authority.stats()
        assert (after.hits, after.misses) == (before.hits, before.misses)
        assert await authority.outline([], horizon=horizon) == {}
        await append(authority, invalidate(Invalidation("[ab]")))
        got = await authority.outline(keys, horizon=await authority.head())
        assert all(got[key].deleted for key in keys[:2] if key in got)
        assert not got[keys[3]].deleted

    async def test_what_is_past_its_life_counts_as_absent(self, authority: Authority) -> None:
        await append(authority, put("k", b"5", ttl=SHORT))
        await passed(authority, await authority.time() + 2 * SHORT)
        entry = await entry_at(authority, "k")
        assert entry is None or not entry.live(await authority.time())
        assert await authority.list_entries(EVERYTHING, after=None, limit=10) == []
        written = receipts(await append(authority, add("k", expected=ABSENT)))[0]
        assert (written.found, written.value) == (False, b"1")

    async def test_the_default_life(self, store: Store) -> None:
        async with store.opened(terms=Terms(default_ttl=50.0)) as authority:
            await append(authority, put("k"))
            entry = await entry_at(authority, "k")
            assert entry is not None
            assert entry.expires_at == pytest.approx(entry.updated_at + 50.0)
            assert abs(entry.updated_at - await authority.time()) < 10

    async def test_a_swept_tombstone_takes_the_older_tokens_with_it(self, store: Store) -> None:
        async with store.opened(terms=Terms(tombstone_ttl=SHORT)) as authority:
            token = await authority.head()
            await append(authority, put("k"))
            deleted = await append(authority, delete("k"))
            await passed(authority, await authority.time() + 2 * SHORT)
            while await authority.sweep(limit=1):
                pass
            assert await values(authority, "k") == [None]
            assert refusal(await append(authority, fill("k", token))) is Refusal.STALE_FILL
            after = Position(token.epoch, deleted.changes[-1].sequence)
            receipts(await append(authority, fill("k", after)))

    async def test_an_expiry_refuses_only_the_tokens_before_the_write_that_expired(self, authority: Authority) -> None:
        before = await authority.head()
        version = receipts(await append(authority, put("k", ttl=SHORT)))[0].version
        written = await authority.head()
        await passed(authority, await authority.time() + 2 * SHORT)
        receipts(await append(authority, expire("k", version)))
        assert refusal(await append(authority, fill("k", before))) is Refusal.STALE_FILL
        receipts(await append(authority, fill("k", written)))

    async def test_a_key_lives_again_after_its_end(self, authority: Authority) -> None:
        for _ in range(3):
            assert not receipts(await append(authority, put("k", expected=ABSENT)))[0].found
            assert receipts(await append(authority, delete("k")))[0].found
        assert not receipts(await append(authority, delete("k")))[0].found
        assert await values(authority, "k") == [None]

    async def test_keys_are_listed_in_byte_order(self, authority: Authority) -> None:
        keys = ["b", "a", "B", "é", "z", "🦊", "\uffee", "a:1", "a:10", "a:2", "a_", "a%", "aa"]
        await append(authority, *(put(key) for key in keys), put("gone"), delete("gone"))
        ordered = sorted(keys, key=str.encode)
        listed = await authority.list_entries(EVERYTHING, after=None, limit=100)
        assert [entry.key for entry in listed] == ordered
        assert [key async for key, _ in authority.scan(EVERYTHING)] == ordered
        versions = {one.key: one.entry.version for one in listed}
        assert {key: version async for key, version in authority.scan(EVERYTHING)} == versions

    @pytest.mark.parametrize("text", ["a*", "a:*", "a_*", "a%*", "a:?", "[a-b]*", "*1", "a:1", "nothing*", "\\a*", "🦊*"])
    async def test_patterns_match_as_everywhere(self, authority: Authority, text: str) -> None:
        keys = ["a", "a:1", "a:10", "a:2", "a_b", "ab", "a%b", "b:1", "🦊:1", "\uffff:1", "A:1"]
        await append(authority, *(put(key) for key in keys))
        pattern = parse_pattern(text)
        expected = sorted((key for key in keys if pattern.matches(key)), key=str.encode)
        assert [entry.key for entry in await authority.list_entries(pattern, after=None, limit=100)] == expected
        assert [key async for key, _ in authority.scan(pattern)] == expected

    async def test_a_listing_tells_all_but_the_value(self, authority: Authority) -> None:
        await append(authority, put("a", b"x" * 70_000, tags=("t",), content_type="text/plain"), put("b", b""))
        one, other = await authority.list_entries(EVERYTHING, after=None, limit=10)
        entry = await entry_at(authority, "a")
        assert entry is not None
        assert (one.entry, one.size) == (entry._replace(value=b""), 70_000)
        assert other.size == 0

    async def test_listing_by_pages(self, authority: Authority) -> None:
        keys = sorted([f"t:{i}" for i in range(50)] + ["t:🦊", "t:é"], key=str.encode)
        await append(authority, *(put(key) for key in keys), *(put(f"other:{i}") for i in range(30)))
        listed: list[str] = []
        after: Key | None = None
        while page := await authority.list_entries(parse_pattern("t:*"), after=after, limit=7):
            listed += [entry.key for entry in page]
            after = page[-1].key
        assert listed == keys

    async def test_a_scarce_match_is_found(self, authority: Authority) -> None:
        await append(authority, *(put(f"k{i:04}") for i in range(3_000)))
        listed = await authority.list_entries(parse_pattern("*2999"), after=None, limit=1)
        assert [entry.key for entry in listed] == ["k2999"]

    async def test_what_is_not_indexed_cannot_be_asked(self, authority: Authority) -> None:
        with pytest.raises(InvalidInput):
            await authority.query({"no.such.field": ["1"]}, after=None, limit=10)

    async def test_nodes_are_seen_while_they_tell_of_themselves(self, authority: Authority, second: Authority) -> None:
        now = await authority.time()
        record = NodeRecord("n1", now - 5, now, await authority.head(), "0.1", "http://127.0.0.1:1", {"lag": 0.5})
        await authority.heartbeat(record)
        await second.heartbeat(replace(record, node="n2"))
        moved = replace(record, applied=Position(record.applied.epoch, Seq(record.applied.sequence + 7)))
        await second.heartbeat(moved)
        seen = {node.node: node for node in await authority.nodes(seen_within=60)}
        assert set(seen) == {"n1", "n2"}
        assert replace(seen["n1"], seen_at=now) == moved
        await authority.leave("n2")
        await authority.leave("n3")
        assert [node.node for node in await second.nodes(seen_within=60)] == ["n1"]
        await passed(authority, await authority.time() + 2 * SHORT)
        assert list(await authority.nodes(seen_within=SHORT)) == []

    async def test_a_silent_node_is_remembered_for_its_time(self, store: Store) -> None:
        for nodes_kept, left in ((60.0, ["n1"]), (SHORT, [])):
            async with store.opened(nodes_kept=nodes_kept) as authority:
                now = await authority.time()
                await authority.heartbeat(NodeRecord("n1", now, now, await authority.head(), "0.1"))
                await passed(authority, await authority.time() + 2 * SHORT)
                await authority.sweep(limit=100)
                assert [node.node for node in await authority.nodes(seen_within=60)] == left

    async def test_dictionaries_are_numbered_and_kept(self, authority: Authority, second: Authority) -> None:
        assert list(await authority.dictionaries(after=0)) == []
        data = bytes(range(256)) * 100
        assert [await authority.add_dictionary("task", data), await second.add_dictionary("é", b"2")] == [1, 2]
        assert list(await second.dictionaries(after=0)) == [(1, "task", data), (2, "é", b"2")]
        assert list(await authority.dictionaries(after=1)) == [(2, "é", b"2")]
        ids = await asyncio.gather(*((authority, second)[i % 2].add_dictionary("m", b"%d" % i) for i in range(6)))
        assert sorted(ids) == [3, 4, 5, 6, 7, 8]

    async def test_the_time_runs(self, authority: Authority) -> None:
        then = await authority.time()
        await passed(authority, then)

    async def test_stats(self, authority: Authority) -> None:
        await append(authority, put("a"), put("b"))
        stats = await authority.stats()
        assert stats.entries in {None, 2}
        assert authority.name in {"memory", "redis", "database"}
