"""Jobs: how far one has come, beside what it is to do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("record", sa.LargeBinary(), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
