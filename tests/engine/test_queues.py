"""What is queued is bounded in bytes as well as in number, whatever the stores do."""

from __future__ import annotations

import asyncio

import pytest

from cachesvc.engine.cache import Limits
from cachesvc.errors import Overloaded
from cachesvc.model.keys import Key
from tests.engine.conftest import Site, put

KIB = b"x" * 1024


async def test_writes_that_wait_are_so_many_bytes(site: Site) -> None:
    async with site.node(limits=Limits(pending_write_bytes=10 * 2000)) as cache:
        queue = cache.writes.combiner
        site.authority.gates["commits"].close()
        async with asyncio.TaskGroup() as group:
            group.create_task(cache.write(put("first")))
            await site.authority.gates["commits"].reached.wait()
            waiting = [group.create_task(cache.write(put(f"k:{n}", KIB))) for n in range(10)]
            await asyncio.sleep(0)
            held = queue.waiting
            assert 10 * 1024 < held <= 10 * 2000
            for _ in range(1_000):
                with pytest.raises(Overloaded, match="bytes are waiting"):
                    await cache.write(put("more", KIB * 10))
            assert (queue.waiting, len(queue)) == (held, 10)
            site.authority.gates["commits"].open()
        assert len(waiting) == 10
        assert queue.waiting == 0
        assert Key("more") not in site.authority.rows
        await cache.write(put("large", KIB * 100))  # larger than the queue may be: alone it is taken


async def test_puts_that_wait_are_so_many_bytes_the_newest(site: Site) -> None:
    async with site.node(limits=Limits(pending_put_bytes=10 * 1024)) as cache:
        site.redis.gates["puts"].close()
        await cache.write(put("first"))
        await site.redis.gates["puts"].reached.wait()
        for n in range(100):
            await cache.write(put(f"k:{n}", KIB))
            assert cache.puts.waiting == 1024 * len(cache.puts) <= 10 * 1024
        for _ in range(20):
            await cache.write(put("k:99", KIB))
        assert (cache.puts.waiting, cache.puts.dropped) == (10 * 1024, 90)
        site.redis.gates["puts"].open()
        await cache.puts.drained()
        assert cache.puts.waiting == 0
        assert set(site.redis.entries) == {Key("first"), *(Key(f"k:{n}") for n in range(90, 100))}


async def test_a_batch_of_puts_is_so_many_bytes(site: Site) -> None:
    async with site.node(limits=Limits(batch_bytes=4 * 1024)) as cache:
        site.redis.gates["puts"].close()
        await cache.write(put("first"))
        await site.redis.gates["puts"].reached.wait()
        for n in range(8):
            await cache.write(put(f"k:{n}", KIB))
        await cache.write(put("large", KIB * 10))
        sizes: list[int] = []
        put_into = site.redis.put

        async def noted(entries, *, token):  # type: ignore[no-untyped-def]
            sizes.append(sum(len(entry.value) for entry in entries))
            return await put_into(entries, token=token)

        site.redis.put = noted  # type: ignore[method-assign]
        site.redis.gates["puts"].open()
        await cache.puts.drained()
        assert sizes == [4 * 1024, 4 * 1024, 10 * 1024]
