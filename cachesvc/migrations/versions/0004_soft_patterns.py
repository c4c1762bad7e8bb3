"""Soft patterns: invalidations that leave what they match, past its life."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("patterns", sa.Column("soft", sa.Boolean(), nullable=False, server_default=sa.false()))
