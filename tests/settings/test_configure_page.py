"""The page on how to configure the service names every setting there is, and its default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cachesvc.settings import ConflictPolicy, LoaderSettings, Section, Settings
from cachesvc.settings.sections import ModuleSettings, PeerSettings

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
CONFIGURE = (PAGES / "configure.md").read_text()
LOAD = (PAGES / "load-from-an-origin.md").read_text()
TOLD = dict(re.findall(r"^\| `([a-zA-Z_.]+)` \| (.*?) \|", CONFIGURE, re.MULTILINE))


def fields_of(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel], str, FieldInfo]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            if name != "loading":
                yield from fields_of(kind, f"{prefix}{name}.")
        elif name != "loaders":
            yield f"{prefix}{name}", section, name, field


FIELDS = {
    place: (section, name, field)
    for place, section, name, field in (
        *fields_of(Settings),
        *fields_of(PeerSettings, "sites.peers.NAME."),
        *fields_of(ModuleSettings, "realtime.modules.NAME."),
        *fields_of(ConflictPolicy, "conflicts.modules.NAME."),
    )
}


def test_it_names_every_setting_and_no_other() -> None:
    assert TOLD.keys() == FIELDS.keys()


@pytest.mark.parametrize("place", FIELDS)
def test_it_tells_the_default(place: str) -> None:
    section, name, field = FIELDS[place]
    if field.is_required() or (field.get_default() is None and field.default_factory is None):
        assert TOLD[place] == "—"
        return
    written = tomllib.loads(f"it = {TOLD[place].strip('`')}")["it"]
    needed = {other: "note:update" for other, known in section.model_fields.items() if known.is_required()}
    assert getattr(section.model_validate({**needed, name: written}), name) == field.get_default(call_default_factory=True)


@pytest.mark.parametrize("name", LoaderSettings.model_fields)
def test_the_page_on_loaders_names_what_they_are_told(name: str) -> None:
    assert f"`{name}`" in LOAD or f"{name} = " in LOAD
