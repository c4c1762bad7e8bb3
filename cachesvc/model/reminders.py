"""Reminders: which a calendar event carries, and when each is told.

The rule that must not break: what was told of an event is kept by start time and minutes before, so nothing is told twice
however often the event is written; what is told, and what filters see of it, is what the event says when it is due.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal, NamedTuple

import orjson

from cachesvc.model.agenda import REMINDER, Item
from cachesvc.model.change import MAX_RECORDED_VALUE, Publication
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.keys import Key
from cachesvc.model.moments import parse_moment

MESSAGE: Final = "calendar:reminder"
MOST: Final = 20  # of an event; more are not told
LONGEST: Final = 366 * 24 * 60.0  # minutes before
TOLD_KEPT: Final = 86_400.0  # seconds after the start of the event
_TYPES: Final = ("email", "popup")


class Reminder(NamedTuple):
    """One reminder of an event. `start` is its start time in Unix seconds, `start_text` as the event has it."""

    start: float
    minutes: float
    start_text: str
    title: str
    kinds: tuple[Literal["email", "popup"], ...]  # each told by a message of its own

    @property
    def at(self) -> float:
        return self.start - self.minutes * 60.0

    @property
    def name(self) -> tuple[float, float]:
        """What it is told once for."""
        return self.start, self.minutes

    def publications(self, event: Entry) -> list[Publication]:
        """Its `calendar:reminder`s. An event that is too large for a record is not looked into: everybody is told."""
        said = {
            "eventId": event.key.partition(":")[2],
            "key": event.key,
            "title": self.title,
            "startTime": self.start_text,
            "minutesBefore": self.minutes,
        }
        about = event._replace(rivals=(), fields=None) if len(event.value) <= MAX_RECORDED_VALUE else None
        payloads = [orjson.dumps(said | {"reminderType": kind}) for kind in self.kinds]
        return [Publication(event.key, payload, type=MESSAGE, about=about) for payload in payloads]


def item_name(key: Key) -> str:
    return f"{REMINDER}{key}"


def key_of(name: str) -> Key:
    """The event of an item."""
    return Key(name.removeprefix(REMINDER))


def _read(text: bytes) -> object:
    """What a JSON text says; None for what is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # or it has a number past the range of a double, which says nothing of a reminder
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None


def reminders_of(entry: Entry | None) -> list[Reminder]:
    """What an event carries, one for each time: `startTime`, `title` and `reminders: [{reminderType, minutesBefore}]`.

    A cache does not refuse what it holds: what cannot be understood is no reminder.
    """
    if entry is None or entry.deleted or entry.content_type != JSON:
        return []
    event = _read(entry.value)
    if not isinstance(event, dict) or not isinstance(event.get("reminders"), list):
        return []
    start_text, title = event.get("startTime"), event.get("title")
    start = parse_moment(start_text) if isinstance(start_text, str) else None
    if start is None or not isinstance(start_text, str):
        return []
    found: dict[tuple[float, float], Reminder] = {}
    for said in event["reminders"][:MOST]:
        minutes, kind = _parts(said)
        if minutes is not None and kind in _TYPES:
            made = Reminder(start, minutes, start_text, title if isinstance(title, str) else "", (kind,))
            known = found.get(made.name)
            if known is None:
                found[made.name] = made
            elif kind not in known.kinds:
                found[made.name] = known._replace(kinds=(*known.kinds, kind))
    return list(found.values())


def _parts(said: Any) -> tuple[float | None, Any]:
    if not isinstance(said, dict):
        return None, None
    minutes = said.get("minutesBefore")
    if not isinstance(minutes, int | float) or isinstance(minutes, bool) or not 0 <= minutes <= LONGEST:
        return None, None
    return minutes, said.get("reminderType", "popup")


class Told(NamedTuple):
    """What was told of an event already, by start time and minutes before."""

    names: frozenset[tuple[float, float]] = frozenset()

    def lasting(self, now: float) -> Told:
        """Without what is long over."""
        return Told(frozenset(name for name in self.names if name[0] > now - TOLD_KEPT))


def told_by(item: Item | None) -> Told:
    return Told(frozenset((start, minutes) for start, minutes in orjson.loads(item.record))) if item is not None else Told()


def next_item(key: Key, event: Entry | None, told: Told, now: float) -> Item | None:
    """When the event is to be looked at again; None where there is nothing to tell, or to remember. A past one is not told."""
    told = told.lasting(now)
    waiting = [one.at for one in reminders_of(event) if one.name not in told.names and one.start >= now]
    if not waiting and not told.names:
        return None
    due = min(waiting) if waiting else max(start for start, _ in told.names) + TOLD_KEPT
    return Item(item_name(key), due, orjson.dumps(sorted(told.names)))


def due_now(event: Entry | None, told: Told, now: float) -> list[Reminder]:
    """Those that are to be told, and were not, in the order of their times."""
    return sorted((one for one in reminders_of(event) if one.at <= now and one.name not in told.names), key=lambda one: one.at)
