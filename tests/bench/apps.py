"""What others would build: a cache behind HTTP on uvicorn, as its documentation has it, for the rows of `tests.bench.http`.

    python -m tests.bench.apps {raw,memory,redis,writes} PORT [REDIS_URL [DATABASE_URL]]

`raw` is an ASGI application without a framework. The others are FastAPI handlers that answer with a `Response` of their own,
which spares them validation: over cachebox, the fastest cache of one process here; over redis-py; over an upsert and a `SET`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import redis.asyncio
import uvicorn
from cachebox import TTLCache
from fastapi import FastAPI, HTTPException, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.bench.records import KEYS, UPSERT, name_of, value_of


def held() -> TTLCache[str, bytes]:
    cache: TTLCache[str, bytes] = TTLCache(2 * KEYS, 3_600)
    for number in range(KEYS):
        cache.insert(name_of(number), value_of(number))
    return cache


def bare() -> ASGIApp:
    cache = held()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        value: bytes | None = cache.get(scope["path"].rpartition("/")[2])
        status, body = (404, b"") if value is None else (200, value)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def over_memory() -> FastAPI:
    app, cache = FastAPI(), held()

    @app.get("/v1/cache/{key}")
    async def read(key: str) -> Response:
        value = cache.get(key)
        if value is None:
            raise HTTPException(404)
        return Response(value, media_type="application/json")

    return app


def over_redis(url: str) -> FastAPI:
    app, client = FastAPI(), redis.asyncio.Redis.from_url(url)

    @app.get("/v1/cache/{key}")
    async def read(key: str) -> Response:
        value = await client.get(key)
        if value is None:
            raise HTTPException(404)
        return Response(value, media_type="application/json")

    return app


def writing(redis_url: str, database_url: str) -> FastAPI:
    client = redis.asyncio.Redis.from_url(redis_url)
    pools: list[asyncpg.Pool[asyncpg.Record]] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(database_url, min_size=16, max_size=16) as pool:
            await pool.execute("CREATE TABLE IF NOT EXISTS plain (key text PRIMARY KEY, value bytea, updated timestamptz)")
            pools.append(pool)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.put("/v1/cache/{key}")
    async def write(key: str, request: Request) -> Response:
        value = await request.body()
        await pools[0].execute(UPSERT, key, value)
        await client.set(key, value, ex=3_600)
        return Response(status_code=200)

    return app


APPS: dict[str, Callable[..., ASGIApp]] = {"raw": bare, "memory": over_memory, "redis": over_redis, "writes": writing}


def main(kind: str, port: int, *urls: str) -> None:
    uvicorn.run(
        APPS[kind](*urls), port=port, lifespan="on" if kind == "writes" else "off", access_log=False, log_level="warning"
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
