"""Logs: JSON or for a terminal, never with a secret."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import orjson
import pytest
import structlog

from cachesvc.observability import logs

HTTPX = logging.getLogger("httpx")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, httpx_level = root.handlers, root.level, HTTPX.level
    yield
    root.handlers, root.level = handlers, level
    HTTPX.setLevel(httpx_level)
    structlog.reset_defaults()


SECRETS = [
    "Authorization: Bearer abc.def.ghi",
    "GET /v1/ws?token=abc.def.ghi&x=1",
    "?access_token=abc.def.ghi",
    "redis://user:abc.def.ghi@host/0",
    "authorization=abc.def.ghi",
    "subprotocol jwt.abc-def-ghi",
]


@pytest.mark.parametrize("line", SECRETS)
@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_cut_out(line: str, as_json: bool) -> None:
    out = io.StringIO()
    logs.configure(json=as_json, stream=out)
    logging.getLogger("x").warning("went: %s", line, extra={"headers": {"Authorization": "abc.def.ghi"}, "url": line})
    structlog.get_logger("y").info(line, token="abc.def.ghi", nested=[line])
    try:
        raise ValueError(line)
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert "went" in out.getvalue()
    assert "abc" not in out.getvalue().replace("abc-def", "abc.def") or "***" in out.getvalue()
    assert "abc.def.ghi" not in out.getvalue()
    assert "abc-def-ghi" not in out.getvalue()


def test_both_ways_of_logging_look_alike() -> None:
    out = io.StringIO()
    logs.configure(json=True, stream=out, level="info")
    logging.getLogger("a").info("said %d", 5, extra={"key": "k"})
    structlog.get_logger("b").info("said", number=5)
    logging.getLogger("a").debug("not said")
    first, second = (orjson.loads(line) for line in out.getvalue().splitlines())
    assert (first["event"], first["logger"], first["level"], first["key"]) == ("said 5", "a", "info", "k")
    assert (second["event"], second["logger"], second["number"]) == ("said", "b", 5)
    assert set(first) - {"key"} == set(second) - {"number"}


def test_a_request_to_an_origin_is_no_line_of_its_own() -> None:
    out = io.StringIO()
    logs.configure(json=True, stream=out)
    HTTPX.info("HTTP Request: GET http://origin/1?key=secret")
    assert out.getvalue() == ""
