"""The URL of a database as its driver takes it."""

from __future__ import annotations

from urllib.parse import urlsplit

from sqlalchemy import URL
from sqlalchemy.engine import make_url


def parsed(url: str) -> URL:
    """A URL. One of PostgreSQL may name several servers, as libpq has it: `postgresql://user@one:5432,two:5432/name`.

    Of these the first that takes writes is connected to, tried in this order each time.
    """
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return make_url(url)
    servers = [urlsplit(f"//{host}") for host in hosts.split(",")]
    several = {
        "host": ",".join(server.hostname or "" for server in servers),
        "port": ",".join(str(server.port or 5432) for server in servers),
    }
    alone = make_url(f"{parts.scheme}://{user}{at}/{parts.path[1:]}?{parts.query}")
    return alone.set(query={"target_session_attrs": "read-write", **alone.query, **several})
