"""How settings are written: durations, sizes, lists, and the table that all sections are.

Every number has a range: no setting makes anything unbounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

_OF_QUERIES = frozenset({"limit", "cursor"})  # what a query is told itself: a field of that name could not be asked for
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def _seconds(value: object) -> object:
    """`"5m"`, `"1.5h"`, `"250ms"` or a number of seconds."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?\s*", value)
        if found is None:
            raise ValueError("not a duration")
        return float(found[1]) * _UNITS[found[2] or "s"]
    return value


def _bytes(value: object) -> object:
    """`"64MiB"`, `"1GB"` or a number of bytes."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]+)\s*([a-zA-Z]*)\s*", value)
        if found is None or found[2].lower() not in _SIZES:
            raise ValueError("not a size")
        return int(found[1]) * _SIZES[found[2].lower()]
    return value


def _listed(value: object) -> object:
    """`"a, b"`, as a list is written in the environment."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _asked_for(path: str) -> str:
    """A field that a query can name."""
    if path in _OF_QUERIES:
        raise ValueError("what a query is told itself")
    return path


@dataclass(frozen=True, slots=True)
class Allowed:
    """What is allowed in a setting, in words; `{range}` stands for its range."""

    words: str


LISTED = BeforeValidator(_listed)
_DURATION = Allowed('durations{range} seconds: a number, or like "250ms", "30s", "5m", "1h", "1d"')
_SIZE = Allowed('sizes{range} bytes: a number, or like "64KiB", "16MiB", "1GiB"')
MAX_TTL = 10 * 365 * 86_400.0
Duration = Annotated[float, BeforeValidator(_seconds), _DURATION, Field(gt=0, le=MAX_TTL, allow_inf_nan=False)]
Span = Annotated[float, BeforeValidator(_seconds), _DURATION, Field(ge=0, le=MAX_TTL, allow_inf_nan=False)]  # 0: none
Size = Annotated[int, BeforeValidator(_bytes), _SIZE, Field(gt=0)]
Rate = Annotated[float, BeforeValidator(_bytes), _SIZE, Field(ge=0, le=1e12, allow_inf_nan=False)]  # bytes a second; 0: any
HeadSize = Annotated[int, BeforeValidator(_bytes), _SIZE, Field(ge=1 << 10, le=1 << 20)]
FieldPath = Annotated[str, Field(pattern=r"^[^.\x00-\x1f]+(\.[^.\x00-\x1f]+)*$", max_length=200)]
FieldPaths = Annotated[
    tuple[Annotated[FieldPath, AfterValidator(_asked_for)], ...],
    LISTED,
    Allowed('up to 64 names of JSON fields, like "status" or "assignee.id", but not "limit" and "cursor"'),
    Field(max_length=64),
]

Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://[^/\s]+$", max_length=300)]
Origins = Annotated[
    tuple[Origin, ...], LISTED, Allowed('up to 1000 origins, like "https://app.example.com"'), Field(max_length=1_000)
]

Word = Annotated[str, Field(pattern=r"^[^:\x00-\x20]+$", max_length=64)]
Words = Annotated[tuple[Word, ...], LISTED, Allowed('up to 16 names, like "notes"'), Field(max_length=16)]


class Section(BaseModel):
    """A table of the file. The specification's camelCase names are accepted beside the names here."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        alias_generator=AliasGenerator(validation_alias=to_camel),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_near_number(cls, value: object, info: ValidationInfo) -> object:
        """`true` is not 1, and 1.5 workers are not one: pydantic would take some of them."""
        kind = cls.model_fields[info.field_name].annotation if info.field_name else None
        if (kind in (int, float) and isinstance(value, bool)) or (kind is int and isinstance(value, float)):
            raise ValueError("not such a number")
        return value
