"""Resources: what can be subscribed to: a module, a part of one, or the keys that a glob matches.

A module or a part of one covers its keys by whole segments: `task:4` covers `task:4` and `task:4:notes`, not `task:42`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cachesvc.errors import InvalidInput
from cachesvc.model.change import Publication
from cachesvc.model.keys import parse_name
from cachesvc.model.pattern import Pattern, literal, parse_pattern
from cachesvc.realtime.modules import Modules

GLOB: Final = "cache:"


class Resource(NamedTuple):
    """A resource by the text that stands for it: `name` covers keys by segments, or `pattern` by matching."""

    text: str
    name: str = ""
    pattern: Pattern | None = None

    @property
    def prefix(self) -> str:
        """All keys that it covers begin with it."""
        return self.pattern.prefix if self.pattern is not None else self.name

    @property
    def reach(self) -> str:
        """What is held against scopes: a glob for all that it covers, or the name of a single one."""
        if self.pattern is not None:
            return self.pattern.text
        return self.name if self.single else f"{literal(self.name)}:*"

    @property
    def single(self) -> bool:
        """Whether it is a part of a module, which is asked for as a key is: by its name, not as a glob."""
        return self.pattern is None and ":" in self.name

    def covers(self, pattern: Pattern) -> bool:
        """Whether all that a pattern matches is of it."""
        if self.pattern is not None:
            return self.pattern.covers(pattern)
        return pattern.prefix.startswith(f"{self.name}:")


def published_to(publication: Publication, modules: Modules) -> Resource:
    """What a publication is to; one of the service itself is to a key, whose text is no glob."""
    if not publication.type:
        return parse_resource(publication.resource, modules, field="resource")
    named = modules.called(publication.resource)
    return Resource(named, name=named)


def parse_resource(text: str, modules: Modules, *, field: str) -> Resource:
    """A resource from outside; raises `InvalidInput` naming `field`."""
    if text.startswith(GLOB):
        glob = text.removeprefix(GLOB)
        return Resource(text, pattern=parse_pattern(glob, field=field))
    name = parse_name(text, field=field)
    module, colon, rest = name.partition(":")
    if not module or (colon and not rest):
        raise InvalidInput(field, "is neither module nor module:id nor cache:<glob>")
    called = modules.called(name)
    return Resource(called, name=called)
