"""Starts that cannot work: one line that says why, and an exit code that tells settings, schema and the rest apart."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests import databases
from tests.e2e.services import NO_REDIS, put, started
from tests.processes.services import LIMIT, REAL, ROOT, serving
from tests.servers import process_environment

# What an administrator may do in spite of permissions, this process may not.
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")


def refused(data_dir: Path, *options: str, **settings: str) -> tuple[int, str]:
    """The exit code and the line."""
    with serving(data_dir, *options, program=REAL, **settings) as service:
        code = service.ended()
        assert len(service.lines) == 1, service.lines
        return code, service.lines[0].removeprefix("cachesvc: ")


def test_a_cluster_is_no_authority(tmp_path: Path) -> None:
    url = "redis+cluster://127.0.0.1:7000"
    code, line = refused(tmp_path, levels__database__enabled="false", levels__redis__url=url)
    assert (code, line.partition(":")[0]) == (2, "setting levels.redis.url = 'redis+cluster")
    assert "a Cluster cannot be the authority" in line


def test_memory_as_the_authority_is_of_one_worker(tmp_path: Path) -> None:
    code, line = refused(tmp_path, "--workers", "2", levels__database__enabled="false", **NO_REDIS)
    assert code == 2
    assert line.startswith("setting server.workers = 2: must be 1")


def newer(line: str) -> bool:
    return "schema revision 9999" in line and "newer version of cachesvc" in line


def test_a_newer_sqlite_database_is_left_alone(tmp_path: Path) -> None:
    databases.put_sqlite(tmp_path / "cachesvc.db")
    with sqlite3.connect(tmp_path / "cachesvc.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    code, line = refused(tmp_path, "--workers", "2", **NO_REDIS)
    assert (code, newer(line)) == (3, True), line


async def test_a_newer_postgresql_database_is_left_alone(tmp_path: Path, bare_postgres_url: str) -> None:
    connection = await asyncpg.connect(bare_postgres_url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) NOT NULL)")
        await connection.execute("DELETE FROM alembic_version")
        await connection.execute("INSERT INTO alembic_version VALUES ('9999')")
        code, line = refused(tmp_path, levels__database__url=bare_postgres_url, **NO_REDIS)
        assert (code, newer(line)) == (3, True), line
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'entries'") == 0
    finally:
        await connection.close()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_a_read_only_data_directory_is_said(tmp_path: Path) -> None:
    directory = tmp_path / "read-only"
    directory.mkdir(mode=0o555)
    command = [*UNPRIVILEGED, sys.executable, *REAL, "serve", "--port", "0", "--data-dir", str(directory)]
    ended = subprocess.run(
        command, cwd=ROOT, env=process_environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout + ended.stderr == f"cachesvc: the directory {directory} cannot be written: Permission denied\n"


async def test_a_redis_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    with started(tmp_path, levels__redis__url="redis://127.0.0.1:1") as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=LIMIT) as client:
            version = await put(client, "a", 1)
            assert (await client.get("/v1/cache/a")).headers["ETag"] == f'"{version}"'
            assert (await client.get("/readyz")).status_code == 200
