"""Redis of several servers: a master dies under load, another takes its place, slots move; nothing stale comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
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


async def test_a_master_of_a_cluster_dies_and_its_replica_is_promoted(tmp_path: Path) -> None:
    with servers.postgres() as postgres, servers.valkey_cluster(3, replicas=1) as valkeys:
        crowd = Crowd(tmp_path, postgres.url, servers.cluster_url(valkeys[1:]))

        async def dies() -> None:
            await crowd.served()
            valkeys[0].kill()
            await promoted([valkeys[3]])
            await crowd.whole()
            valkeys[0].start()  # comes back empty, as a replica
            await crowd.served()

        result = await crowd.over(dies)
    assert result.violations == []
    assert result.audited["redis"] > 0


async def test_slots_move_to_another_master_under_load(tmp_path: Path) -> None:
    with servers.postgres() as postgres, servers.valkey_cluster(3) as valkeys:
        crowd = Crowd(tmp_path, postgres.url, servers.cluster_url(valkeys))

        async def move() -> None:
            await crowd.served()
            await asyncio.to_thread(moved, valkeys[0], valkeys[1], valkeys, crowd)
            await crowd.served()

        result = await crowd.over(move)
    assert result.violations == []
    assert result.audited["redis"] > 0


def moved(source: Server, target: Server, every: Sequence[Server], crowd: Crowd) -> None:
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
            for server in (target, source, *every):
                with redis.Redis(port=server.port) as client:
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", theirs)


@pytest.mark.parametrize("dies", [True, False])
async def test_sentinels_promote_a_replica(tmp_path: Path, *, dies: bool) -> None:
    """Of a master that died, or because somebody asks for it while the old one goes on as a replica."""
    with (
        servers.postgres() as postgres,
        servers.valkey() as master,
        servers.valkey("--replicaof", f"127.0.0.1 {master.port}") as replica,
        servers.valkey_sentinels(master, NAME) as sentinels,
    ):
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        crowd = Crowd(tmp_path, postgres.url, f"redis+sentinel://{hosts}/{NAME}/0")

        async def fails_over() -> None:
            await crowd.served()
            if dies:
                master.kill()
                sentinels[0].kill()  # the first in the URL; the others are a majority
            else:
                with redis.Redis(port=sentinels[0].port) as client:
                    client.execute_command("SENTINEL", "FAILOVER", NAME)
            await promoted([replica])
            await crowd.served()

        result = await crowd.over(fails_over)
    assert result.violations == []
    assert result.audited["redis"] > 0
