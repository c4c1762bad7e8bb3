"""Gaps: sequences of a log that were lost with a history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("log_state", sa.Column("gaps", sa.Text(), nullable=False, server_default=""))
