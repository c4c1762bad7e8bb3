"""Revocations as the database keeps them, beside the log: that is trimmed sooner than some tokens end."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from cachesvc.model.revocation import GRACE, Revocation, pack_revocation, unpack_revocation
from cachesvc.tiers.schema import revocations as table


def write(connection: Connection, some: Collection[Revocation]) -> None:
    """Keep them; of two of the same name the one that lasts longer."""
    for one in some:
        held = connection.execute(select(table.c.until).where(table.c.name == one.name)).scalar_one_or_none()
        if held is not None and held >= one.until:
            continue
        connection.execute(table.delete().where(table.c.name == one.name))
        connection.execute(table.insert().values(name=one.name, until=one.until, record=pack_revocation(one)))


def load(connection: Connection) -> list[Revocation]:
    return [unpack_revocation(record) for record in connection.execute(select(table.c.record)).scalars()]


def forget(connection: Connection, *, now: float) -> None:
    """Those of tokens that have ended."""
    connection.execute(table.delete().where(table.c.until < now - GRACE))
