"""Every loader passes the contract of loaders, made for values of up to 1,000 bytes; and what is a Python loader's alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from cachesvc.errors import SettingsError, Unavailable
from cachesvc.loaders.python import PythonLoader, opened
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded, Loader
from tests.conformance.loader_contract import A, LoaderContract, Origin


def plain(origin: Origin) -> Loader:
    return PythonLoader("plain", origin, timeout=5.0, max_value_size=1_000)


def coroutine(origin: Origin) -> Loader:
    async def load(keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        return origin(keys)

    return PythonLoader("coroutine", load, timeout=5.0, max_value_size=1_000)


@pytest.fixture(params=[plain, coroutine])
def loader_of(request: pytest.FixtureRequest) -> Callable[[Origin], Loader]:
    made: Callable[[Origin], Loader] = request.param
    return made


class TestLoaders(LoaderContract):
    """The contract, over each."""


async def test_values_may_be_bytes_or_what_json_can_say() -> None:
    found: dict[Any, Any] = {A: {"n": 1}, Key("b"): b"raw"}
    loader = PythonLoader("x", lambda _: found, timeout=5.0, max_value_size=1_000)
    assert await loader.load([A, Key("b")]) == {
        A: Loaded(b'{"n":1}', "application/json"),
        Key("b"): Loaded(b"raw", "application/octet-stream"),
    }


@pytest.mark.parametrize("answer", [None, [1], {A: object()}])
async def test_garbage_is_a_failure(answer: object) -> None:
    with pytest.raises(Unavailable):
        await PythonLoader("x", lambda _: answer, timeout=5.0, max_value_size=1_000).load([A])


async def test_a_loader_that_hangs_is_given_up() -> None:
    async def hangs(_: Sequence[Key]) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Unavailable, match="no answer within"):
        await PythonLoader("x", hangs, timeout=0.01, max_value_size=1_000).load([A])


@pytest.mark.parametrize("target", ["nowhere.at.all:f", "json:nothing", "json:__doc__"])
def test_a_target_that_cannot_be_called_is_refused(target: str) -> None:
    with pytest.raises(SettingsError, match=r"loaders\.x\.target"):
        opened("x", target, timeout=1.0, max_value_size=1)


def test_a_target_is_found_by_its_name() -> None:
    assert isinstance(opened("x", "json:JSONDecoder.decode", timeout=1.0, max_value_size=1), PythonLoader)
