"""The contract of loaders, for any: what a `load` fixture, given a function from keys to values, makes a loader of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from cachesvc.errors import Unavailable
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded, Loader

Origin = Callable[[Sequence[Key]], Mapping[Key, Loaded]]
A, B = Key("a:1"), Key("a:ключ 🔑")


class LoaderContract:
    """`loader_of(origin)` gives a loader whose origin answers as that function does, or fails as it does."""

    async def test_what_exists_is_loaded_as_it_is(self, loader_of: Callable[[Origin], Loader]) -> None:
        values = {
            A: Loaded(b'{"a": 1}', "application/json", ttl=5.0, tags=("t",), parents=("p",)),
            B: Loaded(b"\x00\xff", "application/octet-stream"),
        }
        assert await loader_of(lambda keys: {key: values[key] for key in keys}).load([A, B]) == values

    async def test_what_does_not_exist_is_not_in_the_answer(self, loader_of: Callable[[Origin], Loader]) -> None:
        loader = loader_of(lambda keys: {key: Loaded(b"1", "application/json") for key in keys if key == A})
        assert set(await loader.load([A, B])) == {A}

    async def test_only_what_was_asked_for_is_in_the_answer(self, loader_of: Callable[[Origin], Loader]) -> None:
        loader = loader_of(lambda _: {key: Loaded(b"1", "application/json") for key in (A, B)})
        assert set(await loader.load([B])) == {B}

    async def test_a_failure_is_never_a_value(self, loader_of: Callable[[Origin], Loader]) -> None:
        def fails(_: Sequence[Key]) -> Mapping[Key, Loaded]:
            raise ConnectionError("the origin is away")

        with pytest.raises(Unavailable):
            await loader_of(fails).load([A])

    async def test_a_value_over_the_limit_is_a_failure(self, loader_of: Callable[[Origin], Loader]) -> None:
        with pytest.raises(Unavailable, match="bytes"):
            await loader_of(lambda _: {A: Loaded(b"x" * 1_001, "text/plain")}).load([A])
