"""A loader that calls a Python function of the operator's.

A failure is never a value: whatever the function raises is `Unavailable`, and a result of a wrong type is a failure. The rule
that must not break: that holds for `sys.exit()` and a cancellation of the function's own as well, which would end the node.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from cachesvc.errors import SettingsError, Unavailable
from cachesvc.loaders.checked import checked, had, json_of
from cachesvc.model.entry import JSON
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded

_log = logging.getLogger(__name__)


class PythonLoader:
    """Calls `function(keys)`, which returns (or is a coroutine that returns) a mapping from key to value.

    A value is a `Loaded`, `bytes` (kept as `application/octet-stream`) or anything that JSON can say. Keys that are not in the
    mapping do not exist at the origin. A plain function runs in one of `threads`, so that one that hangs holds up nobody else.
    """

    def __init__(self, name: str, function: Callable[..., object], *, threads: ThreadPoolExecutor, max_value_size: int) -> None:
        self._name = name
        self._function = function
        self._threads = threads
        self._max_value_size = max_value_size

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded | Unavailable]:
        """See `ports.Loader`."""
        try:
            found = await self._call(list(keys))
        except (Exception, SystemExit, asyncio.CancelledError) as exc:
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it was the caller who cancelled, not the function
            _log.warning("a loader failed", extra={"loader": self._name}, exc_info=exc)
            raise Unavailable(f"loader {self._name}: {type(exc).__name__}") from exc
        if not isinstance(found, Mapping):
            raise Unavailable(f"loader {self._name}: returned {type(found).__name__}, not a mapping")
        loaded: dict[Key, Loaded | Unavailable] = {}
        for key in keys:
            if key in found:
                try:
                    loaded[key] = self._loaded(found[key])
                except Unavailable as exc:
                    loaded[key] = exc
        return had(loaded, keys)

    async def _call(self, keys: list[Key]) -> object:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(keys)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._function, keys)

    def _loaded(self, value: object) -> Loaded:
        if isinstance(value, bytes):
            value = Loaded(value, "application/octet-stream")
        elif not isinstance(value, Loaded):
            value = Loaded(json_of(self._name, value), JSON)
        return checked(self._name, value, most=self._max_value_size)


@asynccontextmanager
async def opened(name: str, target: str, *, concurrency: int, max_value_size: int) -> AsyncIterator[PythonLoader]:
    """The loader for `module:function`. Raises `SettingsError` when there is no such function.

    The module may be in the working directory, which comes last: nothing in it stands in for a library.
    """
    module, _, path = target.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        function: object = importlib.import_module(module)
        for part in path.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"loaders.{name}.target", target, f"cannot be found: {exc}") from exc
    if not callable(function):
        raise SettingsError(f"loaders.{name}.target", target, "is not a function")
    threads = ThreadPoolExecutor(concurrency, thread_name_prefix=f"loader {name}")
    try:
        yield PythonLoader(name, function, threads=threads, max_value_size=max_value_size)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
