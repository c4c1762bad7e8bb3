"""What is said of a setting that is not acceptable: its name, the value, what is allowed.

No password is ever in it: it ends up in terminals and logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeGuard, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cachesvc.errors import SettingsError
from cachesvc.settings.values import Allowed

TABLES = "tables of settings"
_ALIKE = 0.75  # from 0 to 1, of two names
_SHOWN = 100  # characters of a value
_SECRET = re.compile("pas+w|pwd|secret|token|credential|api_?key|private_?key", re.IGNORECASE)  # mistyped, too


class _NotGiven:
    def __repr__(self) -> str:
        return "not given"


NOT_GIVEN = _NotGiven()  # stands for the value


def refusal(exc: ValidationError, section: type[BaseModel]) -> SettingsError:
    """The first error of a validation of `section` in our words."""
    error = exc.errors(include_url=False, include_context=False)[0]
    path = [str(part) for part in error["loc"] if not isinstance(part, int)]
    name = ".".join(path)
    value = "***" if "headers" in path else shown(path[-1] if path else "", error["input"])
    field = field_at(path, section)
    if error["type"] == "extra_forbidden" or field is None:
        near = nearest(path, section)
        return SettingsError(name, value, "is not a setting" + (f"; did you mean {'.'.join(near)}?" if near else ""))
    if error["type"] == "missing":
        return SettingsError(name, NOT_GIVEN, f"allowed are {_allowed(field)}")
    return SettingsError(name, value, f"allowed are {_allowed(field)}")


def field_at(path: Sequence[str], section: type[BaseModel]) -> FieldInfo | None:
    """The field that a dotted name means, None when there is no such setting."""
    field: FieldInfo | None = None
    inner: Any = section
    for part in path:
        if get_origin(inner) is dict:
            inner = get_args(inner)[1]
        elif is_section(inner) and part in inner.model_fields:
            field = inner.model_fields[part]
            inner = field.annotation
        else:
            return None
    return field


def nearest(path: Sequence[str], section: type[BaseModel]) -> Sequence[str]:
    """The setting whose name is most like this one; empty when none is.

    First among those beside the first part that is not known, then among all: a table may be left out, or another one be meant.
    """
    inner: Any = section
    chosen = False  # a name in the path is the user's own: then no other table is meant
    for place, part in enumerate(path):
        if get_origin(inner) is dict:
            chosen, inner = True, get_args(inner)[1]
        elif is_section(inner) and part in inner.model_fields:
            inner = inner.model_fields[part].annotation
        else:
            beside = list(inner.model_fields) if is_section(inner) else []
            for name in get_close_matches(part.lower(), beside, n=1, cutoff=_ALIKE):
                meant = (*path[:place], name, *path[place + 1 :])
                if field_at(meant, section) is not None:
                    return meant
            break
    if chosen:
        return ()
    names = {"".join(name).replace("_", ""): name for name in _names(section) if tuple(path[: len(name)]) != name}
    found = get_close_matches("".join(path).replace("_", "").lower(), names, n=1, cutoff=_ALIKE)
    return names[found[0]] if found else ()


def is_section(kind: object) -> TypeGuard[type[BaseModel]]:
    """Whether a setting of that type is a table with names of ours."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def without_secrets(text: str) -> str:
    """A value, most often a URL, without user, password and query, and not longer than a line."""
    text = re.sub(r"^([\w+]+://)?.*@", r"\1***@", text, flags=re.DOTALL)
    if "://" in text:
        text = re.sub(r"\?.*", "?…", text, flags=re.DOTALL)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def shown(name: str, value: object) -> object:
    """A value as it may be told, of a setting of that name."""
    if _SECRET.search(name):
        return "***"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return without_secrets(value) if isinstance(value, str) else value


def _names(section: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        yield (name,)
        inner = field.annotation
        if is_section(inner):
            for rest in _names(inner):
                yield (name, *rest)


def _allowed(field: FieldInfo) -> str:
    inner = [part for part in get_args(field.annotation) if part is not NoneType]
    if len(inner) == 1 and NoneType in get_args(field.annotation):  # what need not be given
        field = FieldInfo.from_annotation(inner[0])
    kind = field.annotation
    said = next((part for part in field.metadata if isinstance(part, Allowed)), None)
    if said is not None:
        return said.words.format(range=_range(field))
    if get_origin(kind) is Literal:
        *words, last = (f'"{word}"' for word in get_args(kind))
        return f"{', '.join(words)} and {last}" if words else last
    if kind is str:
        pattern = next(filter(None, (getattr(part, "pattern", None) for part in field.metadata)), None)
        return f"texts that match {pattern}" if pattern else "texts"
    plain = {bool: "true and false", int: "whole numbers", float: "numbers", Path: "paths"}
    return plain[kind] + _range(field) if isinstance(kind, type) and kind in plain else TABLES


def _range(field: FieldInfo) -> str:
    low, high = "", ""
    for limit in field.metadata:
        if isinstance(limit, Ge):
            low = f" from {limit.ge}"
        elif isinstance(limit, Gt):
            low = f" over {limit.gt}"
        elif isinstance(limit, Le):
            high = f" to {limit.le:.10g}"
    return low + high
