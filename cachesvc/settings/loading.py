"""The sections of the loaders: where a miss gets its data, within which limits, and what of it may be served when.

`[loading]` holds for every loader; `[loaders.NAME]` may say otherwise for the module NAME.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

from cachesvc.errors import SettingsError
from cachesvc.settings.refusals import NOT_GIVEN, without_secrets
from cachesvc.settings.values import Duration, Section, Span

_PARTS: Final = re.compile(r"key|id|[0-9]")
_NAMED: Final = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")  # as SQLAlchemy finds the names of a statement's parameters
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_OF_KIND: Final = {
    "http": {"url", "headers", "expect", "use_max_age", "tags_header", "parents_header"},
    "sql": {"url", "query", "content_type"},
    "python": {"target"},
}
_NEEDED: Final = {"http": ("url",), "sql": ("url", "query"), "python": ("target",)}


class Loading(Section):
    """What holds for all loaders; `stale_if_error` also for modules that have none."""

    soft_timeout: Duration = 0.5  # then a caller who may have stale content gets it, and the load goes on
    hard_timeout: Duration = 5.0  # then the load is given up
    concurrency: int = Field(8, ge=1, le=1_000)  # calls of a loader that are under way on a node
    batch: int = Field(100, ge=1, le=512)  # keys in one call; an http loader is asked for each alone
    ttl: Duration | None = None  # the life of what comes without one; not given: the ttl of the deepest level
    ttl_jitter: float = Field(0.0, ge=0, le=0.9)  # share of the ttl that is taken off at random
    stale_while_revalidate: Span = 0.0  # seconds past its life that content is served while it is loaded anew
    stale_if_error: Span = 0.0  # seconds past its life that content is served when it cannot be loaded anew
    refresh_ahead: float = Field(0.0, ge=0, le=0.9)  # last share of the ttl in which a read refreshes
    negative_ttl: Span = 0.0  # seconds that "not there" is remembered


class LoaderSettings(Section):
    """`[loaders.NAME]`: where a miss of the module NAME gets its data; what of `[loading]` is not given is as it is there."""

    kind: Literal["http", "sql", "python"]
    target: str = Field("", pattern=r"^([\w.]+:[\w.]+)?$")  # python: module:function
    url: str = ""  # http: with {key}, {id}, {0} to {9} in its path or query; sql: of the database
    headers: dict[str, str] = Field(default_factory=dict)  # http: sent along; never shown
    expect: str = ""  # http: the media type that an answer must have; not given: any
    use_max_age: bool = False  # http: take the ttl from the answer's Cache-Control
    tags_header: str = "Cache-Tag"  # http: of an answer, names the tags
    parents_header: str = "Depends-On"  # http: of an answer, names the keys and tags that it was computed from
    query: str = ""  # sql: with :key or :id for each key, or :keys or :ids for all of a batch
    content_type: str = "application/json"  # sql: of a column named value
    soft_timeout: Duration | None = None
    hard_timeout: Duration | None = None
    concurrency: Annotated[int, Field(ge=1, le=1_000)] | None = None
    batch: Annotated[int, Field(ge=1, le=512)] | None = None
    ttl: Duration | None = None
    ttl_jitter: Annotated[float, Field(ge=0, le=0.9)] | None = None
    stale_while_revalidate: Span | None = None
    stale_if_error: Span | None = None
    refresh_ahead: Annotated[float, Field(ge=0, le=0.9)] | None = None
    negative_ttl: Span | None = None
    # of {module, userId, dataTypes} in POST /v1/warm
    key: str = Field("{module}:{userId}:{dataType}", pattern=r"^\{module\}:(\{(userId|dataType)\}|[^{}\x00-\x1f])*$")


def terms_of(loader: LoaderSettings, default: Loading) -> Loading:
    """What holds for a loader: what it says itself, else what all have."""
    own = {name: getattr(loader, name) for name in Loading.model_fields}
    return default.model_copy(update={name: value for name, value in own.items() if value is not None})


def check_loader(module: str, loader: LoaderSettings) -> None:
    """What no setting of a loader can tell alone; raises `SettingsError`."""
    name = f"loaders.{module}"
    if not module or ":" in module:
        raise SettingsError(name, module, "is named as a module is: what keys have before their first colon")
    for needed in _NEEDED[loader.kind]:
        if not getattr(loader, needed):
            raise SettingsError(f"{name}.{needed}", NOT_GIVEN, f'is needed by kind = "{loader.kind}"')
    for other in sorted(set().union(*_OF_KIND.values()) - _OF_KIND[loader.kind]):
        if getattr(loader, other) != LoaderSettings.model_fields[other].get_default(call_default_factory=True):
            kinds = " or ".join(f'"{kind}"' for kind, names in _OF_KIND.items() if other in names)
            raise SettingsError(f"{name}.{other}", "given", f"is of kind = {kinds} only")
    if loader.kind == "http":
        _check_http(name, loader)
    elif loader.kind == "sql":
        _check_query(name, loader.query)


def _check_http(name: str, loader: LoaderSettings) -> None:
    shown = without_secrets(loader.url)
    try:
        parts = urlsplit(loader.url)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise SettingsError(f"{name}.url", shown, "names a host and, if any, a port from 1 to 65535") from None
    if parts.scheme not in ("http", "https") or not whole:
        raise SettingsError(f"{name}.url", shown, "starts with http:// or https:// and a host")
    if any(brace in parts.netloc for brace in "{}"):
        raise SettingsError(f"{name}.url", shown, "takes parts of the key in its path and query, not in its host")
    try:
        fields = [field for _, field, form, how in Formatter().parse(loader.url) if field is not None and not (form or how)]
        rest = [field for _, field, form, how in Formatter().parse(loader.url) if field is not None and (form or how)]
    except ValueError:
        fields, rest = [], ["{"]
    if rest or not fields or not all(_PARTS.fullmatch(field) for field in fields):
        raise SettingsError(f"{name}.url", shown, "names the key by {key}, {id} or {0} to {9}, at least once")
    for header, value in loader.headers.items():
        if not _HEADER.fullmatch(header) or not (value.isascii() and value.isprintable()):
            raise SettingsError(f"{name}.headers", header, "are names and values of HTTP headers, in visible ASCII")


def _check_query(name: str, query: str) -> None:
    names = set(_NAMED.findall(query))
    if not names or len(names) > 1 or not names <= {"key", "id", "keys", "ids"}:
        said = ", ".join(f":{one}" for one in sorted(names)) or "none"
        raise SettingsError(f"{name}.query", said, "has one of the parameters :key, :id, :keys and :ids")
