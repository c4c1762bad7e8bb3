"""Entries and changes of every shape, for the tests of how they are written down."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from cachesvc.model.change import MAX_RECORDED_VALUE, Change, Kind, Publication
from cachesvc.model.entry import JSON, Entry, Fields, Origin, Rival, Stamp, content_hash, tombstone
from cachesvc.model.keys import Key
from cachesvc.model.position import MAX_SEQ, Seq, Version
from cachesvc.model.revocation import Revocation

names = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20)
sequences = st.integers(1, MAX_SEQ)
times = st.floats(0, 4e9, allow_nan=False)
origins = st.builds(Origin, names, sequences.map(Seq))
vectors = st.lists(st.tuples(names, sequences), max_size=3).map(tuple)
tuples = st.lists(names, max_size=3).map(tuple)
hashes = st.binary(min_size=16, max_size=16)
stamps = st.builds(Stamp, times, origins)
_paths = st.lists(names, min_size=1, max_size=3).map(tuple)
fields = st.builds(Fields, stamps, vectors, st.lists(st.tuples(_paths, stamps), max_size=3).map(tuple))
_plain = st.builds(
    Entry,
    names.map(Key),
    sequences.map(Version),
    st.binary(max_size=40),
    names,
    times,
    times,
    st.none() | times,
    hashes,
    st.just(False),
    tuples,
    tuples,
    st.just("") | names,
    st.just("") | names,
    st.none() | origins,
    vectors,
    st.booleans(),
    st.just(()),
    st.none() | fields,
)


@st.composite
def _settled(draw: st.DrawFn) -> Entry:
    """An entry with what it was settled from."""
    entry = draw(_plain)
    rivals = [
        Rival(draw(origins), draw(st.none() | origins), other._replace(key=entry.key, version=Version(0)))
        for other in draw(st.lists(_plain, max_size=2))
    ]
    return entry._replace(rivals=tuple(rivals))


entries = _settled()
tombstones = st.builds(
    lambda key, version, now, keep: tombstone(Key(key), Version(version), now=now, keep=keep), names, sequences, times, times
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A change as a log holds it: of one key with its entry, of one without, or of none."""
    sequence = draw(sequences)
    entry = draw(st.none() | entries | tombstones)
    key = draw(st.none() | names.map(Key)) if entry is None else entry.key
    return Change(
        Seq(sequence),
        draw(st.sampled_from(Kind)),
        draw(names),
        draw(times),
        key,
        entry._replace(version=Version(sequence)) if entry is not None else None,
        before=draw(st.none() | hashes),
        distribute=draw(st.booleans()),
        conflict=draw(st.just("") | names),
    )


_VALUE: Final = b'{"name":"\xf0\x9f\x8e\x88"}'
PLAIN: Final = Entry(
    Key("task:1"),
    Version(1_700_000_000_000_001),
    _VALUE,
    JSON,
    1_700_000_000.25,
    1_700_000_001.5,
    1_700_086_401.5,
    content_hash(JSON, _VALUE),
)
FULL: Final = PLAIN._replace(
    expires_at=None,
    tags=("tag one", "🎈"),
    parents=("task:2", "tusk"),
    updated_by="ann",
    source="loader",
    origin=Origin("berlin", Seq(17)),
    vector=(("berlin", 17), ("oslo", 3)),
)
_LARGE: Final = PLAIN._replace(value=b"", content_hash=content_hash(JSON, b"x" * (MAX_RECORDED_VALUE + 1)))
_DEAD: Final = tombstone(Key("task:1"), PLAIN.version, now=1_700_000_002.0, keep=86_400.0)
_AT: Final = (Seq(PLAIN.version), "0190aa-0", 1_700_000_001.5, Key("task:1"))

SAMPLES: Final = {
    "write": Change(_AT[0], Kind.WRITE, *_AT[1:], PLAIN),
    "write of everything": Change(
        _AT[0], Kind.WRITE, *_AT[1:], FULL, before=bytes(range(16)), distribute=False, conflict="0190aa-0"
    ),
    "write of a large value": Change(_AT[0], Kind.WRITE, *_AT[1:], _LARGE, value_held=False),
    "write of nothing": Change(_AT[0], Kind.WRITE, *_AT[1:], PLAIN._replace(value=b"")),
    "delete": Change(_AT[0], Kind.DELETE, *_AT[1:], _DEAD._replace(updated_by="ann"), before=PLAIN.content_hash),
    "fill": Change(_AT[0], Kind.FILL, *_AT[1:], PLAIN._replace(source="loader", parents=("task:2",))),
    "expire": Change(_AT[0], Kind.EXPIRE, *_AT[1:], before=PLAIN.content_hash),
    "publish": Change(_AT[0], Kind.PUBLISH, *_AT[1:3]),
    "publication": Change(_AT[0], Kind.PUBLISH, *_AT[1:3], publication=Publication("task:42", b'{"typing": 1e400}', "ann")),
    "message about an entry": Change(
        _AT[0],
        Kind.PUBLISH,
        *_AT[1:3],
        distribute=False,
        publication=Publication("task:1", b'{"minutesBefore":10}', type="calendar:reminder", about=PLAIN),
    ),
    "revoke": Change(
        _AT[0], Kind.REVOKE, *_AT[1:3], distribute=False, revocation=Revocation(1_700_090_000.5, "", "ann", 1_700_000_000.0)
    ),
    "write over what is remembered": Change(_AT[0], Kind.WRITE, *_AT[1:], PLAIN, before=bytes(range(16)), previous=b"23"),
}
