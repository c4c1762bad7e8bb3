"""The tables of the database authority, for SQLite and PostgreSQL alike.

The rule that must not break: what is written here and what the migrations make is the same; a change is a new migration.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

REVISION: Final = "0009"  # of the migrations: what this version reads and writes

CHANNEL: Final = "cachesvc_changes"  # where PostgreSQL tells of an append

# SQLite compares text as bytes unless told otherwise; PostgreSQL must be told
Name = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

entries = Table(
    "entries",
    metadata,
    Column("key", Name, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("content_hash", LargeBinary, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("details", LargeBinary, nullable=False),
    Index(
        "entries_expire",
        "expires_at",
        postgresql_where=text("NOT deleted AND expires_at IS NOT NULL"),
        sqlite_where=text("NOT deleted AND expires_at IS NOT NULL"),
    ),
    Index("entries_tombstones", "expires_at", postgresql_where=text("deleted"), sqlite_where=text("deleted")),
)

entry_field = Table(
    "entry_field",
    metadata,
    Column("key", Name, primary_key=True),
    Column("field", Name, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("value", Name, primary_key=True),
    Index("entry_field_values", "field", "type", "value", "key"),
)

tags = Table(
    "tags",
    metadata,
    Column("key", Name, primary_key=True),
    Column("tag", Name, primary_key=True),
    Index("tags_keys", "tag", "key"),
)

dependencies = Table(
    "dependencies",
    metadata,
    Column("key", Name, primary_key=True),
    Column("parent", Name, primary_key=True),
    Index("dependencies_keys", "parent", "key"),
)

changes = Table(
    "changes",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("key", Text),
    Column("record", LargeBinary, nullable=False),
    Column("value", LargeBinary),
    Column("bytes_before", BigInteger, nullable=False),  # of all records before it, so that a sum is a subtraction
    Column("at", Double, nullable=False),
)

# one row: where the log stands
log_state = Table(
    "log_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("head", BigInteger, nullable=False),
    Column("trimmed_to", BigInteger, nullable=False),
    Column("complete_since", BigInteger, nullable=False),
    Column("bytes_total", BigInteger, nullable=False),
    Column("fields", Text, nullable=False),  # JSON: which fields are indexed, and how far
    Column("patterns_at", BigInteger, nullable=False, server_default="0"),  # the change that last changed `patterns`
    Column("gaps", Text, nullable=False, server_default=""),  # sequences that were lost with a history
)

# invalidations by pattern that are active, or were retired a short while ago
patterns = Table(
    "patterns",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("pattern", Name, nullable=False),
    Column("at", Double, nullable=False),
    Column("retired", BigInteger, nullable=False),  # the sequence of its retirement, 0 while it is active
    Column("retired_at", Double, nullable=False),
    Column("buried_to", Name, nullable=False),  # the keys up to this one have been swept
    Column("looked", BigInteger, nullable=False),  # at so many keys
    Column("buried", BigInteger, nullable=False),  # so many entries were ended
    Column("soft", Boolean, nullable=False),  # or left stale
    Column("named", LargeBinary, nullable=False, server_default=""),  # of an enumeration: JSON, the keys in order
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("subject", Name, primary_key=True),
    Column("key", Name, primary_key=True),
    Column("record", LargeBinary, nullable=False),
    Column("made", Text, nullable=False),  # of a batch: where the log stood before, and what it appended
    Column("at", Double, nullable=False),
    Index("idempotency_age", "at"),
)

# tokens that are not believed any more
revocations = Table(
    "revocations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("until", Double, nullable=False),
    Column("record", LargeBinary, nullable=False),
)

dictionaries = Table(
    "dictionaries",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("module", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("at", Double, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("node", Text, primary_key=True),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("info", Text, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
)

# how far the logs of other sites were taken in
sites = Table(
    "sites",
    metadata,
    Column("site", Name, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),  # what it is to do, empty when it has ended
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("record", LargeBinary, nullable=False),  # all that is told of it
    Column("revision", Integer, nullable=False),
)

# what is to be looked at again at a time
agenda = Table(
    "agenda",
    metadata,
    Column("name", Name, primary_key=True),
    Column("due_at", Double, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("agenda_due", "due_at"),
)
