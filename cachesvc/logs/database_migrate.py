"""Bringing a database to the schema of this version, and its log to its first epoch.

Run under the log's lock, so of several processes that start at once one does the work and the others find it done.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import DBAPIError

from cachesvc import migrations
from cachesvc.errors import SchemaMismatch
from cachesvc.model.position import first_sequence
from cachesvc.tiers.database_fields import FieldIndex, unpack_index
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import REVISION, log_state

_PATIENCE: Final = 300.0  # seconds that a migration may take


async def migrated(store: Store, indexed_fields: Collection[str]) -> None:
    """Make the database what this version expects. Raises `SchemaMismatch`, `TierUnavailable`."""
    if not await store.read(_is_current):
        await store.write(_upgrade, within=_PATIENCE)
    if await store.read(_fields) != frozenset(indexed_fields):
        await store.maintain(lambda connection: _begin(connection, store, indexed_fields))


def _is_current(connection: Connection) -> bool:
    return _revision(connection) == REVISION


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _upgrade(connection: Connection) -> None:
    revision = _revision(connection)
    if revision == REVISION:
        return  # another process was faster
    # slow to import, and seldom needed
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    directory = str(Path(migrations.__file__).parent)
    config.set_main_option("script_location", directory.replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaMismatch(
            f"the database has schema revision {revision}, which this version does not know (it knows up to {REVISION}): "
            "it was written by a newer version of cachesvc"
        )
    try:
        command.upgrade(config, "head")
    except DBAPIError as exc:
        if exc.connection_invalidated:
            raise
        raise SchemaMismatch(f"the database cannot be brought to schema revision {REVISION}: {exc.orig}") from exc


def _fields(connection: Connection) -> frozenset[str] | None:
    """The fields that are indexed by now; None before the first epoch."""
    stored = connection.execute(select(log_state.c.fields)).scalar_one_or_none()
    return None if stored is None else unpack_index(stored).written


def _begin(connection: Connection, store: Store, indexed_fields: Collection[str]) -> None:
    """Start the first epoch of a new log; take over which fields are to be indexed."""
    row = connection.execute(select(log_state.c.fields)).one_or_none()
    if row is not None:
        index = unpack_index(row[0]).changed_to(indexed_fields)
        connection.execute(log_state.update().values(fields=index.pack()))
        return
    now = connection.execute(select(store.now())).scalar_one()
    first = first_sequence(now)
    connection.execute(
        log_state.insert().values(
            id=1,
            epoch=first,
            head=first,
            trimmed_to=first,
            complete_since=0,
            bytes_total=0,
            fields=FieldIndex(ready=frozenset(indexed_fields)).pack(),
        )
    )
