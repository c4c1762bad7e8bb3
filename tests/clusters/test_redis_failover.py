"""Redis of several servers: a master dies under load, another takes its place, slots move; nothing stale comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import redis

from tests import servers
from tests.clusters.crowd import Crowd, until
from tests.servers import Server

NAME = "cache"


def role(server: Server) -> str:
    with redis.Redis(port=server.port, socket_timeout=5) as client:
        return str(client.info("replication")["role"])


async def promoted(among: Sequence[Server]) -> None:
    """Wait until one of these is a master."""

    async def one() -> bool:
        return any(role(server) == "master" for server in among)

    await until(one)


async def followed(server: Server) -> None:
    """Wait until this one, a master before, has all that the new one has."""

    async def follows() -> bool:
        with redis.Redis(port=server.port, socket_timeout=5) as client:
            told = client.info("replication")
        return (told["role"], told.get("master_link_status")) == ("slave", "up")

    await until(follows)


async def test_a_master_of_a_cluster_dies_and_slots_move_to_another(tmp_path: Path) -> None:
    """A replica takes the dead one's place; later the slots of one that lives are moved, under load as well."""
    with servers.postgres() as postgres, servers.valkey_cluster(3, replicas=1) as valkeys:
        crowd = Crowd(tmp_path, postgres.url, servers.cluster_url(valkeys[1:]))

        async def happens() -> None:
            await crowd.served()
            valkeys[0].kill()
            await promoted([valkeys[3]])
            await crowd.whole()
            valkeys[0].start()  # comes back empty, as a replica
            await crowd.served()
            await asyncio.to_thread(moved, valkeys[1], valkeys[2], valkeys[1:4])
            await crowd.served()

        result = await crowd.over(happens)
    assert result.violations == []
    assert result.audited["redis"] > 0


def moved(source: Server, target: Server, masters: Sequence[Server]) -> None:
    """All slots of one master that have keys, the way `valkey-cli --cluster reshard` does it."""
    with redis.Redis(port=source.port) as old, redis.Redis(port=target.port) as new:
        ours, theirs = (client.execute_command("CLUSTER", "MYID") for client in (old, new))
        slots = {int(old.execute_command("CLUSTER", "KEYSLOT", key)) for key in old.scan_iter()}
        assert slots
        for slot in slots:
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ours)
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", theirs)
            while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
                old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
            for server in (target, source, *masters):
                with redis.Redis(port=server.port) as client:
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", theirs)


async def test_sentinels_promote_a_replica(tmp_path: Path) -> None:
    """Because somebody asks for it while the old master goes on as a replica; and again when the new one dies."""
    with (
        servers.postgres() as postgres,
        servers.valkey() as first,
        servers.valkey("--replicaof", f"127.0.0.1 {first.port}") as second,
        servers.valkey_sentinels(first, NAME) as sentinels,
    ):
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        crowd = Crowd(tmp_path, postgres.url, f"redis+sentinel://{hosts}/{NAME}/0")

        async def fails_over() -> None:
            await crowd.served()
            with redis.Redis(port=sentinels[0].port) as client:
                client.execute_command("SENTINEL", "FAILOVER", NAME)
            await promoted([second])
            await followed(first)
            await crowd.served()
            second.kill()
            sentinels[0].kill()  # the first in the URL; the others are a majority
            await promoted([first])
            await crowd.served()

        result = await crowd.over(fails_over)
    assert result.violations == []
    assert result.audited["redis"] > 0
