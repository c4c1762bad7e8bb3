"""Patterns in force: invalidations by pattern that are active, or were retired a short while ago."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "patterns",
        sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=False),
        sa.Column("pattern", _NAME, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("retired", sa.BigInteger(), nullable=False),
        sa.Column("retired_at", sa.Double(), nullable=False),
        sa.Column("buried_to", _NAME, nullable=False),
        sa.Column("looked", sa.BigInteger(), nullable=False),
        sa.Column("buried", sa.BigInteger(), nullable=False),
    )
    op.add_column("log_state", sa.Column("patterns_at", sa.BigInteger(), nullable=False, server_default="0"))
