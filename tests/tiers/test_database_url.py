"""URLs of databases, as the driver takes them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from cachesvc.tiers.database_url import parsed


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql://u@h:5433/d", {"user": "u", "host": "h", "port": 5433, "database": "d"}),
        (
            "postgresql://u:p%40@one:5433,two/d",
            {"user": "u", "password": "p@", "host": ["one", "two"], "port": [5433, 5432], "database": "d"},
        ),
        ("postgresql://one,[::1]:5433", {"host": ["one", "::1"], "port": [5432, 5433]}),
        (
            "postgresql://one,two/d?ssl=require&target_session_attrs=primary",
            {"host": ["one", "two"], "port": [5432, 5432], "database": "d", "ssl": "require"},
        ),
    ],
)
def test_servers_of_a_url(url: str, arguments: dict[str, Any]) -> None:
    dialect: Any = PGDialect_asyncpg
    found = dialect().create_connect_args(parsed(url))[1]
    wanted = found.pop("target_session_attrs", None)
    assert found == arguments
    assert wanted == ("primary" if "primary" in url else "read-write" if "," in url else None)
