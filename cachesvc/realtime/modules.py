"""Modules: which message a change of a key is told as. One table, as data; configuration adds to it.

The first segment of a key names its module. What no module claims is told as `cache:update`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from cachesvc.protocol.pushed import GoogleSource, Importance, MailStatus, TaskSource

Shape = Literal["entity", "mail", "metric", "plain"]
Metadata = Literal["", "source", "updated_by", "conflict"]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the payload beside the entity: what is known of the change's conflict, else the value's member of that name,
    else what is known of the entry, else a default; left out where all of them are nothing.

    What is not of its `kind`, or not `among` what is specified, counts as nothing.
    """

    name: str
    metadata: Metadata = ""
    default: object = None
    kind: type[str | bool | list[object] | dict[str, object]] = str
    among: tuple[str, ...] = ()

    def takes(self, value: object) -> bool:
        return isinstance(value, self.kind) and (not self.among or value in self.among)


@dataclass(frozen=True, slots=True)
class Module:
    """How the changes of a module are told.

    `entity` is the member of the payload that carries the value, `also` are other names of the module as a resource,
    `remembers` is what the log is to tell of the content that a change replaced (None: nothing, "": all of it).
    """

    name: str
    type: str
    shape: Shape = "entity"
    entity: str = ""
    also: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    status_type: str = ""
    statuses: tuple[str, ...] = ()  # that are told by it
    remembers: str | None = None
    reminds: bool = False  # its values are events, which may carry reminders


SOURCE: Final = Member("source", "source", "internal")
_TASK_SOURCE: Final = Member("source", "source", "internal", among=get_args(TaskSource))
_GOOGLE_SOURCE: Final = Member("source", "source", "internal", among=get_args(GoogleSource))
CHANGED_BY: Final = Member("changedBy", "updated_by")
PLAIN: Final = Module("", "cache:update", "plain")

TABLE: Final = (
    Module(
        "task", "task:update", entity="task", also=("tasks",), members=(_TASK_SOURCE, Member("conflict", "conflict", kind=dict))
    ),
    Module(
        "event",
        "calendar:update",
        entity="event",
        also=("events", "calendar"),
        members=(_GOOGLE_SOURCE, Member("attendees", kind=list)),
        reminds=True,
    ),
    Module(
        "contact",
        "contact:update",
        entity="contact",
        also=("contacts",),
        members=(_GOOGLE_SOURCE, Member("mergeConflict", "conflict", kind=bool)),
    ),
    Module(
        "email",
        "email:new",
        "mail",
        entity="message",
        also=("emails",),
        members=(Member("folder", default="inbox"), Member("importance", default="normal", among=get_args(Importance))),
        status_type="email:status",
        statuses=get_args(MailStatus),
        remembers="status",
    ),
    Module("dashboard", "dashboard:update", "metric", also=("dashboards",), remembers=""),
    Module("journal", "cache:update", "plain", also=("journals",)),
)


class Modules:
    """The table, by the name of a module and by the names of its resource."""

    def __init__(self, added: Iterable[Module] = ()) -> None:
        added = tuple(added)
        self._added = frozenset(module.name for module in added)
        self._by_name = {module.name: module for module in (*TABLE, *added)}
        self._aliases = {alias: module.name for module in self._by_name.values() for alias in module.also}

    def of(self, name: str) -> Module:
        """The module that a key's first segment names."""
        return self._by_name.get(name, PLAIN)

    @property
    def added(self) -> Mapping[str, str]:
        """What the settings added, by type of message: the member of its payload that carries the value."""
        return {module.type: module.entity for module in self._by_name.values() if module.name in self._added}

    def called(self, resource: str) -> str:
        """The resource, by the name of its module, whichever of its names it has."""
        name, colon, rest = resource.partition(":")
        module = name if name in self._by_name else self._aliases.get(name, name)
        return f"{module}{colon}{rest}"

    @property
    def reminds(self) -> tuple[str, ...]:
        """What the keys of events begin with."""
        return tuple(f"{module.name}:" for module in self._by_name.values() if module.reminds)

    @property
    def remembers(self) -> Mapping[str, str]:
        """What the log is to tell of replaced content, by module."""
        return {module.name: module.remembers for module in self._by_name.values() if module.remembers is not None}
