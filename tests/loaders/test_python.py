"""What is a Python loader's alone."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cachesvc.errors import SettingsError, Unavailable
from cachesvc.loaders.python import PythonLoader, opened
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded

A, B = Key("a"), Key("b")
THREADS = ThreadPoolExecutor(1)


def loader(answer: object) -> PythonLoader:
    return PythonLoader("x", lambda _: answer, threads=THREADS, max_value_size=1_000)


async def test_values_may_be_bytes_or_what_json_can_say() -> None:
    found: dict[Any, Any] = {A: {"n": 1}, B: b"raw"}
    assert await loader(found).load([A, B]) == {
        A: Loaded(b'{"n":1}', "application/json"),
        B: Loaded(b"raw", "application/octet-stream"),
    }


@pytest.mark.parametrize("number", [float("nan"), float("inf"), {"a": [None, (1.0, float("-inf"))]}])
async def test_a_number_that_json_cannot_say_does_not_become_null(number: object) -> None:
    with pytest.raises(Unavailable, match=r"^loader x: a value is not JSON \(it holds a number"):
        await loader({A: number}).load([A])
    found = await loader({A: number, B: [None, "null", 1.5]}).load([A, B])
    assert isinstance(found[A], Unavailable)
    assert found[B] == Loaded(b'[null,"null",1.5]', "application/json")


@pytest.mark.parametrize("answer", [None, [1], {A: object()}])
async def test_garbage_is_a_failure(answer: object) -> None:
    with pytest.raises(Unavailable, match="loader x"):
        await loader(answer).load([A])


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), ValueError("secret")])
@pytest.mark.parametrize("in_thread", [True, False])
async def test_whatever_is_raised_is_a_failure_of_the_loader_alone(
    error: BaseException, in_thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(keys: object) -> object:
        raise error

    async def coroutine(keys: object) -> object:
        raise error

    raising = PythonLoader("x", plain if in_thread else coroutine, threads=THREADS, max_value_size=1_000)
    with pytest.raises(Unavailable, match=f"^loader x: {type(error).__name__}$"):
        await raising.load([A])
    (logged,) = caplog.records
    assert logged.exc_info is not None
    assert logged.exc_info[1] is error  # what it says goes to the log alone


@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_caller_that_cancels_is_cancelled(in_thread: bool) -> None:
    called, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def plain(keys: object) -> object:
        loop.call_soon_threadsafe(called.set)
        return end.wait(30)

    async def coroutine(keys: object) -> object:
        called.set()
        return await asyncio.Event().wait()

    hanging = PythonLoader("x", plain if in_thread else coroutine, threads=THREADS, max_value_size=1_000)
    task = asyncio.create_task(hanging.load([A]))
    try:
        await called.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        end.set()


async def test_one_bad_value_fails_alone() -> None:
    found = await loader({A: 1, B: object()}).load([A, B])
    assert found[A] == Loaded(b"1", "application/json")
    assert isinstance(found[B], Unavailable)


@pytest.mark.parametrize("target", ["nowhere.at.all:f", "json:nothing", "json:__doc__"])
async def test_a_target_that_cannot_be_called_is_refused(target: str) -> None:
    with pytest.raises(SettingsError, match=r"loaders\.x\.target"):
        async with opened("x", target, concurrency=1, max_value_size=1):
            pass


async def test_a_target_is_found_by_its_name() -> None:
    async with opened("x", "json:JSONDecoder.decode", concurrency=1, max_value_size=1) as found:
        assert isinstance(found, PythonLoader)
