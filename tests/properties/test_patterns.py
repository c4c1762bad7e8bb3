"""Hostile patterns over every authority: what is listed, and what an invalidation ends, is what the pure matcher says."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.model.change import Draft, Operation, invalidate
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.ports import Authority
from tests.conformance.authority_store import EVERYTHING, Store
from tests.conformance.test_authorities import MemoryStore, RedisStore
from tests.logs.database_store import DatabaseStore

EXAMPLES = int(os.environ.get("EXAMPLES", "12"))
KEYS = sorted(
    map(
        Key,
        [
            *(
                "a",
                "A",
                "b",
                "ab",
                "aXb",
                "a:b",
                "a:b:c",
                "a%b",
                "a_b",
                "a\\b",
                "a[b]",
                "a*b",
                "a**b",
                "a?b",
                "a]b",
                "a-b",
                "a!b",
            ),
            *(
                "%",
                "_",
                "\\",
                "*",
                "**",
                "?",
                "[",
                "]",
                "[a]",
                "[!a]",
                "^a",
                "'; DROP TABLE entries; --",
                '"',
                " a ",
                "a b",
                "$a.c",
            ),
            *(
                "100%",
                "100%_of",
                "100xxof",
                "é",
                "e\u0301",
                "\u0301",
                "日本",
                "日本語",
                "🦊",
                "🦊:🐺",
                "👩‍👩‍👧",
                "\U0010ffff",
                "\ufffd",
                "ÿ",
                "ß",
                "ẞ",
            ),
            *("_" * 512, "é" * 256, "🦊" * 128, "a" * 511 + "b", "a" * 512),
        ],
    ),
    key=lambda key: key.encode(),
)
PIECES = st.sampled_from(
    [
        *"*?[]!-\\%_:ab^é🦊",
        "**",
        "[a-z]",
        "[!a]",
        "[\\]]",
        "\\*",
        "\\\\",
        "[%_]",
        "[🦊-🐺]",
        "日",
        "\u0301",
        "a" * 200,
        "_" * 255,
    ]
)


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """A key, some parts of it taken literally or replaced by what matches more."""
    key = draw(st.sampled_from(KEYS))[: draw(st.integers(1, 20))]
    return "".join(draw(st.sampled_from([c, c, "\\" + c, "?", "*", f"[{c}x]" if c not in "]!^-\\" else "?"])) for c in key)


PATTERNS = st.lists(PIECES, min_size=1, max_size=6).map("".join) | mangled()


@pytest.fixture
async def authorities(tmp_path: Path, valkey_url: str, postgres_url: str) -> AsyncIterator[dict[str, Authority]]:
    stores: dict[str, Store] = {
        "memory": MemoryStore(),
        "redis": RedisStore(valkey_url),
        "sqlite": DatabaseStore(f"sqlite:///{tmp_path}/a.db", tmp_path),
        "postgresql": DatabaseStore(postgres_url, tmp_path),
    }
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(store.opened()) for name, store in stores.items()}


async def filled(authority: Authority) -> None:
    await authority.append([Draft(Operation.SET, key, b"1") for key in KEYS], batch=uuid4().hex)


async def listed(authority: Authority, text: str) -> list[Key]:
    """In pages of seven, so that what comes after a key is looked for too."""
    found: list[Key] = []
    after = None
    while page := await authority.list_entries(parse_pattern(text), after=after, limit=7):
        found += [entry.key for entry in page]
        after = found[-1]
    return found


async def live(authority: Authority) -> list[Key]:
    now = await authority.time()
    found = await authority.get(KEYS, horizon=await authority.head())
    return [key for key in KEYS if key in found and found[key].live(now)]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@example("a%*")
@example("_*")
@example("*\\\\*")
@example("*[[]*")
@example("a" * 510 + "?*")
@given(PATTERNS)
async def test_every_store_hits_what_the_matcher_says(authorities: dict[str, Authority], text: str) -> None:
    try:
        pattern = parse_pattern(text)
    except InvalidInput:
        assume(False)
        return
    matching = [key for key in KEYS if pattern.matches(key)]
    left = [key for key in KEYS if not pattern.matches(key)]
    for name, authority in authorities.items():
        await filled(authority)
        assert await listed(authority, text) == matching, name
        await authority.append([invalidate(Invalidation(pattern.text))], batch=uuid4().hex)
        assert await live(authority) == left, name
        [one] = (await authority.standing()).patterns
        while not (await authority.bury(one, limit=11)).done:
            pass
        retired = invalidate(Invalidation(pattern.text, retires=one.sequence))
        await authority.append([retired], batch=uuid4().hex)
        assert await live(authority) == left, name
        assert [key async for key, _ in authority.scan(EVERYTHING)] == left, name


@pytest.mark.parametrize(
    "text", ["a\n", "\n", "a\x00*", "\x7f", "\x85", "a" * 513, "é" * 257, "", "[", "[a", "[]", "a\\", "[a-", "[z-a]"]
)
async def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="pattern"):
        parse_pattern(text)
