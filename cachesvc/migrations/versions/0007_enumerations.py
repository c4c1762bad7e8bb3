"""Enumerations: invalidations of many keys whose rows are ended after the append."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("patterns", sa.Column("named", sa.LargeBinary(), nullable=False, server_default=""))
