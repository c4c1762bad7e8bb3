"""What an event says of its reminders."""

from __future__ import annotations

import pytest

from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.model.reminders import reminders_of

ONE = '"startTime": "2026-11-26T10:00:00Z", "reminders": [{"reminderType": "popup", "minutesBefore": 5}]'


def event(text: str) -> Entry:
    value = text.encode()
    return Entry(Key("event:1"), Version(1), value, JSON, 0.0, 0.0, None, content_hash(JSON, value))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        (f"{{{ONE}}}", [5]),
        (f'{{{ONE}, "far": 1e309}}', [5]),  # is JSON, though no double says it
        (f'{{{ONE}, "large": {10**40}}}', [5]),
        (f'{{{ONE}, "deep": {"[" * 5_000}{"]" * 5_000}}}', []),
        ("{", []),
        ("[1]", []),
        (f"{{{ONE.replace('5}', '1e309}')}}}", []),
    ],
)
def test_what_cannot_be_understood_is_no_reminder(text: str, minutes: list[int]) -> None:
    assert [one.minutes for one in reminders_of(event(text))] == minutes
