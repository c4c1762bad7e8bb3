"""Backups of a store under the feet of whoever uses it: taken, and put back in one step."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import asyncpg
import redis


class Backup(Protocol):
    async def take(self) -> None: ...

    async def put_back(self) -> None: ...


@dataclass
class SqliteBackup:
    """Of a file in use."""

    file: Path

    async def take(self) -> None:
        await asyncio.to_thread(_copy, self.file, self.file.with_suffix(".backup"))

    async def put_back(self) -> None:
        await asyncio.to_thread(_copy, self.file.with_suffix(".backup"), self.file)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source, timeout=20)) as old, closing(sqlite3.connect(target, timeout=20)) as new:
        old.backup(new)


@dataclass
class PostgresBackup:
    """Of every table, in another schema."""

    url: str

    async def take(self) -> None:
        await self._run("DROP SCHEMA IF EXISTS backup CASCADE; CREATE SCHEMA backup", "CREATE TABLE backup.{0} AS TABLE {0}")

    async def put_back(self) -> None:
        await self._run("SELECT 1", "LOCK TABLE {0}; DELETE FROM {0}; INSERT INTO {0} TABLE backup.{0}")

    async def _run(self, first: str, each: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            async with connection.transaction():
                await connection.execute(first)
                found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
                for row in found:
                    await connection.execute(each.format(row["tablename"]))
        finally:
            await connection.close()


@dataclass
class RedisBackup:
    """Of every key."""

    url: str
    held: dict[bytes, bytes] = field(default_factory=dict)

    async def take(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            self.held = {key: dumped for key in client.scan_iter() if (dumped := client.dump(key)) is not None}

    async def put_back(self) -> None:
        with redis.Redis.from_url(self.url) as client, client.pipeline() as together:
            together.flushall()
            for key, dumped in self.held.items():
                together.restore(key, 0, dumped)
            together.execute()
