"""Where settings come from: command line, then environment (`CACHESVC_LEVELS__REDIS__URL`), then the file, then defaults.

Nothing that looks like a setting is passed over: what is not one is refused by its name.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_settings import EnvSettingsSource

from cachesvc.errors import SettingsError
from cachesvc.settings.refusals import TABLES, field_at, is_section, nearest, refusal, shown
from cachesvc.settings.whole import Settings

BUILT_IN = Path(__file__).with_name("embedded.toml")  # what `cachesvc serve` runs without a file
CLIENT_VARIABLES = frozenset({"CACHESVC_URL", "CACHESVC_TOKEN"})  # of the operator commands, not settings of a service


def load_settings(
    file: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of a file (`BUILT_IN` without one), the environment and the command line's overrides (nested dicts).

    Raises `SettingsError`, whose text shows no password.
    """
    environ = os.environ if environ is None else environ
    _check_variables(environ)
    merged: dict[str, Any] = {}
    for source in (_read(file or BUILT_IN), _Environment(environ)(), dict(overrides or {})):
        named = _named(source, Settings, ())
        _choose(named, merged)
        _merge(merged, named)
    try:
        return Settings(**merged)
    except ValidationError as exc:
        raise refusal(exc, Settings) from None


class _Environment(EnvSettingsSource):
    """`CACHESVC_SERVER__PORT` and its like. What is not JSON where a table is due stays text, for the validation to name."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.env_vars = {name.lower(): value for name, value in environ.items()}

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _check_variables(environ: Mapping[str, str]) -> None:
    """Refuses what is named like a setting of ours and is none: a typing error would pass unnoticed."""
    for variable in sorted(environ):
        if not variable.upper().startswith("CACHESVC_") or variable in CLIENT_VARIABLES:
            continue
        path = variable[len("CACHESVC_") :].lower().split("__")
        if field_at(path, Settings) is None:
            near = "__".join(nearest(path, Settings)).upper()
            hint = f"; did you mean CACHESVC_{near}?" if near else ""
            raise SettingsError(variable, shown(variable, environ[variable]), f"is not a setting{hint}")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as exc:
        raise SettingsError("--config", str(file), f"cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError("--config", str(file), f"is not TOML: {exc}") from exc


def _named(table: Mapping[str, Any], section: type[BaseModel], path: tuple[str, ...]) -> dict[str, Any]:
    """The table by our names, so that a setting given in both spellings, or in two sources, is one setting."""
    ours = {str(field.validation_alias): name for name, field in section.model_fields.items()}
    named: dict[str, Any] = {}
    for given, value in table.items():
        name = ours.get(given, given)
        if name in named:
            twice = f"is given twice, as {to_camel(name)} and {name}"
            raise SettingsError(".".join((*path, name)), shown(name, value), twice)
        field = section.model_fields.get(name)
        named[name] = _inside(value, field.annotation if field else None, (*path, name))
    return named


def _inside(value: Any, kind: Any, path: tuple[str, ...]) -> Any:
    """A value by our names. Where a table is due, another source would hide that this is none."""
    kinds = get_args(kind)[1] if get_origin(kind) is dict else None
    if not is_section(kinds or kind):
        return value
    if not isinstance(value, dict):
        told = "a text" if isinstance(value, str) else shown(path[-1], value)  # one may have a whole table in it, secrets too
        raise SettingsError(".".join(path), told, f"allowed are {TABLES}")
    if kinds is None:
        return _named(value, kind, path)
    return {name: _inside(inner, kinds, (*path, name)) for name, inner in value.items()}


def _choose(source: dict[str, Any], merged: dict[str, Any]) -> None:
    """A source that names a Redis replaces the embedded one of the sources before it, and the other way round."""
    redis = source.get("levels", {}).get("redis", {}) if isinstance(source.get("levels", {}), dict) else {}
    if not isinstance(redis, dict) or not merged:
        return
    if redis.get("url") and "embedded" not in redis:
        redis["embedded"] = False
    elif redis.get("embedded") and "url" not in redis:
        redis["url"] = ""


def _merge(into: dict[str, Any], table: dict[str, Any]) -> None:
    for name, value in table.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value
