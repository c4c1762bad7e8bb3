"""The lines of a snapshot: read as they were written, and refused when anything is missing or altered."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.protocol import snapshot as module
from cachesvc.protocol.snapshot import SnapshotReader, SnapshotWriter

AT = Position(Epoch(7), Seq(99))


def entry(key: str = "a", value: bytes = b'{"n": 1}', kind: str = JSON, **more: object) -> Entry:
    made = Entry(Key(key), Version(5), value, kind, 1.5, 2.5, None, content_hash(kind, value))
    return made._replace(**more)  # type: ignore[arg-type]


ENTRIES = [
    entry(),
    entry("日本:🦊 %_'\"\\", "é\r\n\u2028".encode(), "text/plain", tags=("t",), parents=("p", "q"), expires_at=9.25),
    entry("b", b"\xff\0\n", "application/octet-stream", updated_by="ann", source="loader", version=Version(2**53 - 1)),
    entry("c", b"", "text/plain"),
]


def written(*entries: Entry) -> bytes:
    writer = SnapshotWriter()
    lines = [writer.header(AT, at=3.5, pattern="*", service="1")]
    lines += [writer.entry(one) for one in entries]
    return b"".join([*lines, writer.end()])


def read(text: bytes) -> list[Entry]:
    reader = SnapshotReader(max_value_size=1_000)
    found = [one for line in text.split(b"\n")[:-1] if (one := reader.line(line)) is not None]
    reader.close()
    assert (reader.position, reader.pattern, reader.count) == (AT, "*", len(found))
    return found


def test_what_is_written_is_read() -> None:
    assert read(written(*ENTRIES)) == ENTRIES
    assert read(written()) == []


def test_there_are_checksums_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 2)
    text = written(*ENTRIES)
    assert text.count(b'"checksum"') == 3
    assert read(text) == ENTRIES
    altered = text.replace(b'"version":5', b'"version":6', 1)
    reader = SnapshotReader(max_value_size=1_000)
    lines = altered.split(b"\n")
    for line in lines[:3]:
        reader.line(line)
    with pytest.raises(InvalidInput, match="line 4: checksum"):  # before the rest is read
        reader.line(lines[3])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_cut_off_or_altered_is_refused(data: st.DataObject) -> None:
    text = written(*ENTRIES)
    place = data.draw(st.integers(0, len(text) - 1))
    match data.draw(st.sampled_from(["cut", "byte", "line", "twice", "swap"])):
        case "cut":
            broken = text[:place]
        case "byte":
            other = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[place]))
            broken = text[:place] + bytes([other]) + text[place + 1 :]
        case "line":
            lines = text.splitlines(keepends=True)
            del lines[place % len(lines)]
            broken = b"".join(lines)
        case "twice":
            lines = text.splitlines(keepends=True)
            broken = b"".join([*lines, lines[place % len(lines)]])
        case _:
            lines = text.splitlines(keepends=True)
            lines[1], lines[2] = lines[2], lines[1]
            broken = b"".join(lines)
    if broken and not broken.endswith(b"\n"):
        return  # which whoever splits the lines tells
    with pytest.raises(InvalidInput):
        read(broken)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (entry(value=b"{"), "line 2: text"),
        (entry(value=b"x" * 1_001, kind="text/plain"), "line 2: text: has 1001 bytes"),
        (entry(key="\x01"), "line 2: key"),
        (entry(tags=("\x01",)), "line 2: tags"),
        (entry(kind="none"), "line 2: Content-Type"),
        (entry(version=0), "line 2: version"),
        (entry(content_hash=b"\0" * 16), "line 2: hash"),
    ],
)
def test_what_could_not_have_been_written_is_refused(one: Entry, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(written(one))


@pytest.mark.parametrize(("name", "text"), [("expiresAt", b"Infinity"), ("createdAt", b"1e300"), ("updatedAt", b"-1")])
def test_a_time_that_no_clock_shows_is_refused(name: str, text: bytes) -> None:
    header, line, *_ = written(entry()).splitlines()
    reader = SnapshotReader(max_value_size=1_000)
    reader.line(header)
    with pytest.raises(InvalidInput, match=f"line 2: {name}"):
        reader.line(re.sub(rb'("%b":)[^,]+' % name.encode(), rb"\g<1>" + text, line))


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"{}", b'{"snapshot":2}', b"\xff"])
def test_what_is_no_snapshot(line: bytes) -> None:
    with pytest.raises(InvalidInput, match="line 1"):
        SnapshotReader(max_value_size=1_000).line(line)
    reader = SnapshotReader(max_value_size=1_000)
    with pytest.raises(InvalidInput, match="cut off"):
        reader.close()
