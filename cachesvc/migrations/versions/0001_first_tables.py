"""The first tables: entries and their indexes, the change log, answers, and what nodes share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("key", _NAME, primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("details", sa.LargeBinary(), nullable=False),
    )
    _partial_index("entries_expire", "NOT deleted AND expires_at IS NOT NULL")
    _partial_index("entries_tombstones", "deleted")
    op.create_table(
        "entry_field",
        sa.Column("key", _NAME, primary_key=True),
        sa.Column("field", _NAME, primary_key=True),
        sa.Column("type", sa.Text(), primary_key=True),
        sa.Column("value", _NAME, primary_key=True),
    )
    op.create_index("entry_field_values", "entry_field", ["field", "type", "value", "key"])
    for table, column in (("tags", "tag"), ("dependencies", "parent")):
        op.create_table(table, sa.Column("key", _NAME, primary_key=True), sa.Column(column, _NAME, primary_key=True))
        op.create_index(f"{table}_keys", table, [column, "key"])
    op.create_table(
        "changes",
        sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text()),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary()),
        sa.Column("bytes_before", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
    )
    op.create_table(
        "log_state",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.BigInteger(), nullable=False),
        sa.Column("trimmed_to", sa.BigInteger(), nullable=False),
        sa.Column("complete_since", sa.BigInteger(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
    )
    op.create_table(
        "idempotency",
        sa.Column("subject", _NAME, primary_key=True),
        sa.Column("key", _NAME, primary_key=True),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("made", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
    )
    op.create_index("idempotency_age", "idempotency", ["at"])
    _create_shared_tables()


def _partial_index(name: str, where: str) -> None:
    op.create_index(name, "entries", ["expires_at"], postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def _create_shared_tables() -> None:
    """What the nodes of a site share beside the entries."""
    op.create_table(
        "dictionaries",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("module", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
    )
    op.create_table(
        "nodes",
        sa.Column("node", sa.Text(), primary_key=True),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("applied", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("info", sa.Text(), nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
    )
