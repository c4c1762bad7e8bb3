"""A loader that calls a Python function of the operator's.

A failure is never a value: whatever the function raises is `Unavailable`, and a result of a wrong type is a failure.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence

import orjson

from cachesvc.errors import InvalidInput, SettingsError, Unavailable
from cachesvc.model.entry import JSON
from cachesvc.model.keys import Key, parse_name
from cachesvc.ports import Loaded
from cachesvc.protocol.api import check_ttl
from cachesvc.protocol.exact import check_json

_MEDIA_TYPE = re.compile(r"[!-~]{1,127}/[ -~]{1,127}")


class PythonLoader:
    """Calls `function(keys)`, which returns (or is a coroutine that returns) a mapping from key to value.

    A value is a `Loaded`, `bytes` (kept as `application/octet-stream`) or anything that JSON can say. Keys that are not in the
    mapping do not exist at the origin. One call has `timeout` seconds; a plain function runs in a thread.
    """

    def __init__(self, name: str, function: Callable[..., object], *, timeout: float, max_value_size: int) -> None:
        self._name = name
        self._function = function
        self._timeout = timeout
        self._max_value_size = max_value_size

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._call(list(keys))
        except TimeoutError as exc:
            raise Unavailable(f"loader {self._name}: no answer within {self._timeout:g} s") from exc
        except Exception as exc:
            raise Unavailable(f"loader {self._name}: {type(exc).__name__}") from exc
        if not isinstance(found, Mapping):
            raise Unavailable(f"loader {self._name}: returned {type(found).__name__}, not a mapping")
        return {key: self._loaded(found[key]) for key in keys if key in found}

    async def _call(self, keys: list[Key]) -> object:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(keys)
        return await asyncio.to_thread(self._function, keys)

    def _loaded(self, value: object) -> Loaded:
        if isinstance(value, bytes):
            value = Loaded(value, "application/octet-stream")
        elif not isinstance(value, Loaded):
            try:
                value = Loaded(orjson.dumps(value), JSON)
            except TypeError as exc:
                raise Unavailable(f"loader {self._name}: a value is not JSON ({exc})") from exc
        try:
            if len(value.value) > self._max_value_size:
                raise InvalidInput("value", f"has {len(value.value)} bytes; allowed are {self._max_value_size}")
            return _checked(value)
        except (InvalidInput, TypeError, AttributeError) as exc:
            raise Unavailable(f"loader {self._name}: {exc}") from exc


def _checked(loaded: Loaded) -> Loaded:
    """What a loader says of a value holds to the same limits as what a client says. Raises `InvalidInput`."""
    if loaded.ttl is not None:
        check_ttl(loaded.ttl)
    if not _MEDIA_TYPE.fullmatch(loaded.content_type):
        raise InvalidInput("content_type", "is not a media type of up to 255 characters")
    for field in ("tags", "parents"):
        for name in getattr(loaded, field):
            parse_name(name, field=field)
    if loaded.content_type == JSON:
        check_json(loaded.value, field="value")
    return loaded


def opened(name: str, target: str, *, timeout: float, max_value_size: int) -> PythonLoader:
    """The loader for `module:function`. Raises `SettingsError` when there is no such function."""
    module, _, path = target.partition(":")
    try:
        function: object = importlib.import_module(module)
        for part in path.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"loaders.{name}.target", target, f"cannot be found: {exc}") from exc
    if not callable(function):
        raise SettingsError(f"loaders.{name}.target", target, "is not a function")
    return PythonLoader(name, function, timeout=timeout, max_value_size=max_value_size)
