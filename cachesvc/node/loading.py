"""What loads stand on, built from settings: the loaders of the modules, their terms and policies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random

from cachesvc.engine.load_terms import Loading, LoadTerms
from cachesvc.loaders import python
from cachesvc.model.keys import Key, module_of
from cachesvc.model.policy import Policy
from cachesvc.ports import Leases, Loader
from cachesvc.settings import LoaderSettings, Settings, terms_of
from cachesvc.settings import Loading as LoadingSettings


async def loaders_of(settings: Settings, stack: AsyncExitStack) -> dict[str, Loader]:
    """The loaders, open until the stack is. Raises `SettingsError`."""
    return {name: await _loader(name, loader, settings, stack) for name, loader in settings.loaders.items()}


async def _loader(name: str, loader: LoaderSettings, settings: Settings, stack: AsyncExitStack) -> Loader:
    most = settings.server.max_value_size
    calls = terms_of(loader, settings.loading).concurrency
    if loader.kind == "python":
        return await stack.enter_async_context(python.opened(name, loader.target, concurrency=calls, max_value_size=most))
    if loader.kind == "http":
        from cachesvc.loaders import http  # noqa: PLC0415 - a node pays only for what its settings name

        origin = http.Origin(
            loader.url, loader.headers, loader.expect, loader.use_max_age, loader.tags_header, loader.parents_header
        )
        return await stack.enter_async_context(http.opened(name, origin, connections=calls, max_value_size=most))
    from cachesvc.loaders import sql  # noqa: PLC0415

    return await stack.enter_async_context(
        sql.opened(name, loader.url, loader.query, connections=calls, content_type=loader.content_type, max_value_size=most)
    )


def loading_of(settings: Settings, *, ttl: float, leases: Leases | None, holder: str) -> Loading:
    """Terms by module. `ttl` is the life of what has none of its own."""
    terms = {name: _terms(terms_of(loader, settings.loading), loader.kind, ttl) for name, loader in settings.loaders.items()}
    # what has no loader is neither revalidated nor refreshed, and nothing is known to be absent
    policy = Policy(stale_if_error=settings.loading.stale_if_error)
    return Loading(terms, policy, leases, holder, Random().random)


def _terms(said: LoadingSettings, kind: str, ttl: float) -> LoadTerms:
    return LoadTerms(
        said.soft_timeout,
        said.hard_timeout,
        said.concurrency,
        1 if kind == "http" else said.batch,  # each by itself, so that a slow one holds up no other
        said.ttl if said.ttl is not None else ttl,
        said.ttl_jitter,
        _policy(said),
    )


def _policy(said: LoadingSettings) -> Policy:
    return Policy(said.stale_while_revalidate, said.stale_if_error, said.refresh_ahead, said.negative_ttl)


def ahead_of(settings: Settings) -> dict[str, float]:
    """The share of its life, by module, in which a read refreshes an entry."""
    shares = {name: terms_of(loader, settings.loading).refresh_ahead for name, loader in settings.loaders.items()}
    return {name: share for name, share in shares.items() if share}


def stale_of(settings: Settings) -> tuple[Callable[[Key], float], float]:
    """For how many seconds past its life an entry is of use, and the most of all modules."""
    windows = {name: _policy(terms_of(loader, settings.loading)).stale for name, loader in settings.loaders.items()}
    rest = settings.loading.stale_if_error
    return lambda key: windows.get(module_of(key), rest), max(rest, *windows.values(), 0.0)
