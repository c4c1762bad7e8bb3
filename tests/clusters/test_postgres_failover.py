"""PostgreSQL with a replica: the primary dies under load, and what was acknowledged is on the other."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import asyncpg

from tests import servers
from tests.clusters.crowd import Crowd


async def test_a_replica_of_postgresql_is_promoted(tmp_path: Path) -> None:
    """It confirms each commit, so that nothing is lost with the primary."""
    with servers.postgres() as primary, servers.postgres_replica(primary, "standby") as replica:
        connection = await asyncpg.connect(primary.url)
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{replica.port}"
        with servers.valkey() as valkey:
            crowd = Crowd(tmp_path, f"postgresql://postgres@{hosts}/postgres", valkey.url)

            async def fails_over() -> None:
                await crowd.served()
                primary.kill()
                standby = await asyncpg.connect(replica.url)
                with suppress(asyncpg.PostgresError):
                    await standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
                await standby.execute("SELECT pg_reload_conf()")
                assert await standby.fetchval("SELECT pg_promote()")
                await standby.close()
                await crowd.served()

            result = await crowd.over(fails_over)
    assert result.violations == []
    assert not any("HISTORY LOST" in line for machine in crowd.machines for line in machine.said)
