"""Replicas: what becomes of one key that several sites write, each of which may not know of the others' writes yet.

A write is named by its origin, the site and the sequence there; a version vector says of which writes an entry knows. Writes
that did not know of each other are kept beside each other as rivals (dotted version vectors, Preguiça et al. 2010). The rule
that must not break: what is served is worked out from the set of rivals and the policy alone, so every site that knows of the
same writes serves the same, in whatever order it heard of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Final, NamedTuple

import orjson
import xxhash

from cachesvc.errors import InvalidInput
from cachesvc.model.entry import JSON, NO_ORIGIN, Entry, Origin, Rival, Vector, content_hash
from cachesvc.model.fields import merge, stamped
from cachesvc.model.merging import Policy, Settlement, Sibling, Strategy, settle_merged
from cachesvc.model.numbers import add_exactly, format_number, parse_number
from cachesvc.model.position import Seq, Version
from cachesvc.model.vector import joined, knows, knows_all

TICK: Final = 2**-20  # seconds, under 1 µs: by which a write is later than what it knew of, where the clock does not say so
_NO_VERSION: Final = Version(0)
_LATEST: Final = Policy()


class Settled(NamedTuple):
    """What came of hearing of another site's write: the entry, and the id of the conflict that was not known before.

    `ends`: nobody wrote, and yet it differed, since it had ended here and not there.
    """

    entry: Entry
    conflict: str = ""
    ends: bool = False


def origin_of(entry: Entry, site: str) -> Origin:
    """The write that an entry at this site is of."""
    return entry.origin or Origin(site, Seq(entry.version))


def vector_of(entry: Entry, site: str) -> Vector:
    """The writes that an entry at this site knows of."""
    if entry.vector or entry.local:
        return entry.vector
    return ((site, entry.version),)


def shared(entry: Entry) -> Entry | None:
    """What other sites are to have of an entry of this one; None where that is nothing."""
    if not entry.local:
        return entry
    if not entry.rivals:
        return None
    hidden = entry.rivals[0]
    return hidden.entry._replace(version=entry.version, origin=hidden.origin)


def conflict_of(entry: Entry | None) -> str:
    """The id of the conflict between the rivals that an entry at this site is made of; "" where they are at one."""
    held = shared(entry) if entry is not None and entry.rivals else None
    return _conflict(held, held.rivals, frozenset()) if held is not None else ""


def rivals_of(entry: Entry, site: str) -> tuple[Rival, ...]:
    """What an entry at this site is settled from; itself, where it was never disputed or added to."""
    return entry.rivals or (Rival(origin_of(entry, site), None, _content(entry)),)


def mark_of(entry: Entry, site: str) -> bytes:
    """What digests compare of an entry: 16 bytes over its key, all the writes that it knows of, and its content."""
    known = orjson.dumps([entry.key, vector_of(entry, site), entry.deleted])
    return xxhash.xxh3_128_digest(known + entry.content_hash)


def portable(entry: Entry, site: str) -> Entry:
    """The entry as any site understands it: what goes without saying here is said."""
    return entry._replace(origin=origin_of(entry, site), vector=vector_of(entry, site))


# writes at this site


def fielded(entry: Entry, live: Entry | None, site: str) -> Entry:
    """A write of this site with its fields, so that it can be merged by them; `live` is what it was written over."""
    over = live if live is not None and not live.local else None
    before = origin_of(over, site) if over is not None else None
    return stamped(entry, over, origin_of(entry, site), vector_of(entry, site), before)


def succeeding(entry: Entry, row: Entry | None, site: str, *, local: bool) -> Entry:
    """A write of this site over what it has: it knows of all that the row knows of, and is later than that."""
    if row is None:
        return entry._replace(local=True) if local else entry
    hidden = _hidden(row, site, entry.updated_at) if local else ()
    latest = max([row.updated_at, *(rival.entry.updated_at for rival in row.rivals)])
    if entry.updated_at < latest or (entry.updated_at == latest and row.vector):
        entry = entry._replace(updated_at=latest + TICK)
    if local:
        return entry._replace(vector=vector_of(row, site), local=True, rivals=hidden)
    if not row.vector:
        return entry
    return entry._replace(vector=joined(row.vector, ((site, entry.version),)))


def _hidden(row: Entry, site: str, now: float) -> tuple[Rival, ...]:
    """What a local write keeps of what it stands before, so that other sites hear of it although they did not yet."""
    if row.local:
        return row.rivals if row.rivals and (row.rivals[0].entry.expires_at or now + 1) > now else ()
    if row.expires_at is not None and row.expires_at <= now:
        return ()  # it ends at each site by itself
    return (_before(row, site),)


def _before(entry: Entry, site: str) -> Rival:
    """The whole entry that other sites are to have, as what is local stands before it."""
    return Rival(origin_of(entry, site), None, entry._replace(version=_NO_VERSION, origin=None, vector=vector_of(entry, site)))


def ended(gone: Entry, row: Entry, site: str) -> Entry:
    """What is left where a row ended by itself, of which no other site is told; what the row knew of stays known."""
    gone = gone._replace(origin=None, vector=vector_of(row, site), local=True, rivals=())
    if not (row.local and row.rivals and row.rivals[0].entry.deleted):
        return gone
    # a deletion that it stood before is remembered for as long as any
    until = max(gone.expires_at or 0.0, row.rivals[0].entry.expires_at or 0.0)
    return gone._replace(expires_at=until, rivals=row.rivals)


def added(entry: Entry, live: Entry | None, amount: bytes, site: str, policy: Policy) -> Entry:
    """An increment of this site, which `entry` is the outcome of, as what this site has added altogether."""
    root, beside = NO_ORIGIN, []
    if live is not None:
        held = rivals_of(live, site) if not live.local else (Rival(origin_of(live, site), None, _content(live)),)
        base, additions = _parts(held, policy)
        if base is not None:
            root, beside = base.origin, [base]
        beside += additions
    mine = next((rival for rival in beside if rival.of == root and rival.origin.site == site), None)
    total = _sum([amount, mine.entry.value]) if mine is not None else amount
    if total is None:
        return entry  # too long to be added to: content from now on
    own = Rival(Origin(site, Seq(entry.version)), root, _content(_valued(entry, total)))
    return entry._replace(rivals=tuple(sorted([own, *(rival for rival in beside if rival is not mine)], key=_order)))


# writes of other sites


def merged(row: Entry | None, came: Entry, site: str, version: Version, policy: Policy = _LATEST) -> Settled | None:
    """What this site has after hearing of another's entry, at `version`; None where it knew all of that already."""
    if row is None:
        entry = settled(rivals_of(came, site), policy)._replace(version=version, vector=vector_of(came, site))
        return Settled(entry, _conflict(entry, entry.rivals, frozenset()))
    known, told = vector_of(row, site), vector_of(came, site)
    mine = shared(row)
    ours = rivals_of(mine, site) if mine is not None else ()
    theirs = rivals_of(came, site)
    twice = [rival for rival in ours if rival.origin.site == site and knows(told, rival.origin) and _is_other(rival, theirs)]
    if twice:
        last = max(twice, key=_age)
        ours = tuple(rival if rival is not last else rival._replace(origin=Origin(site, Seq(version))) for rival in ours)
        known = tuple(one for one in known if one[0] != site)  # of its own names none can be relied on
    elif knows_all(known, told):
        return None
    named_ours, named_theirs = {rival.origin for rival in ours}, {rival.origin for rival in theirs}
    kept = {rival.origin: rival for rival in ours if rival.origin in named_theirs or not knows(told, rival.origin)}
    for rival in theirs:
        if rival.origin in named_ours or not knows(known, rival.origin):
            kept[rival.origin] = min(rival, kept.get(rival.origin, rival), key=_end)  # one may have been told to end sooner
    if not kept:
        return None
    vector = joined(joined(known, told), ((site, version),) if twice else ())
    entry = settled(kept.values(), policy)._replace(version=version, vector=vector)
    conflict = _conflict(entry, entry.rivals, frozenset(named_ours))
    if row.local and row.origin is not None and row.updated_at > entry.updated_at:  # what was written for this site is later
        entry = row._replace(version=version, vector=entry.vector, rivals=(_before(entry, site),))
    return Settled(entry, conflict)


def _is_other(rival: Rival, theirs: Iterable[Rival]) -> bool:
    """Whether what another site knows under the name of this write is another one: whoever knows of a write is not older.

    Then a backup was restored here, and sequences were given again.
    """
    named = next((each for each in theirs if each.origin == rival.origin), None)
    if named is None:
        return all(each.entry.updated_at < rival.entry.updated_at for each in theirs)
    return named.entry.updated_at < rival.entry.updated_at and named.entry.content_hash != rival.entry.content_hash


def settled(rivals: Iterable[Rival], policy: Policy = _LATEST) -> Entry:
    """What is served of a set of rivals: what the policy makes of their contents, and all that was added to that, or to what is
    no more.

    Of the same time the higher name of the site counts. It has no version yet, and no vector.
    """
    ordered = tuple(sorted(rivals, key=_order))
    base, additions = _parts(ordered, policy)
    summed = [base, *additions] if base is not None and not base.entry.deleted else additions
    newest = max(summed, key=_age) if summed else base
    assert newest is not None
    entry = newest.entry
    if additions:
        total = _sum(rival.entry.value for rival in summed)
        if total is not None:
            entry = _valued(entry, total)
        else:  # what it was added to is no number any more, or the sum is too long
            newest = base or newest
            entry = newest.entry
    plain = len(ordered) == 1 and ordered[0].of is None
    return entry._replace(origin=newest.origin, rivals=() if plain else ordered)


class Settling(NamedTuple):
    """How contents that did not know of each other are settled: these, in order; how; and what stands, under whose name."""

    contents: tuple[Rival, ...]
    settlement: Settlement
    stands: Rival

    def of(self, siblings: Iterable[Sibling]) -> list[Rival]:
        return [self.contents[sibling.version] for sibling in siblings]


def settling(rivals: Iterable[Rival], policy: Policy) -> Settling:
    """Of two contents or more."""
    contents = tuple(sorted({rival.origin: rival for rival in rivals if rival.of is None}.values(), key=_age))
    siblings = [_sibling(rival, place) for place, rival in enumerate(contents)]
    fields = merge([rival.entry for rival in contents]) if policy.strategy is Strategy.FIELD_LEVEL else None
    found = settle_merged(policy, siblings, fields[0] if fields is not None else None, based=False, now=None)
    if found.winner is not None or found.value is None or fields is None:
        winner = contents[found.winner.version] if found.winner is not None else contents[-1]
        return Settling(contents, found, winner)
    newest, entries = contents[-1], [rival.entry for rival in reversed(contents)]
    tags = next((entry.tags for entry in entries if entry.tags), ())
    parents = next((entry.parents for entry in entries if entry.parents), ())
    entry = _valued(newest.entry, found.value)._replace(tags=tags, parents=parents, fields=fields[1])
    return Settling(contents, found, newest._replace(entry=entry))


def _parts(rivals: Iterable[Rival], policy: Policy) -> tuple[Rival | None, list[Rival]]:
    """The content that stands, and the increments that count: of that, or of what is not there."""
    contents = {rival.origin: rival for rival in rivals if rival.of is None}
    base: Rival | None = None
    if len(contents) > 1:
        base = settling(contents.values(), policy).stands
    elif contents:
        (base,) = contents.values()
    counts = [
        rival for rival in rivals if rival.of is not None and (rival.of not in contents or (base and rival.of == base.origin))
    ]
    return base, counts


def _sibling(rival: Rival, place: int) -> Sibling:
    """By its place among the others in place of a version."""
    entry = rival.entry
    value = None if entry.deleted else entry.value
    return Sibling(value, entry.updated_at, place, entry.source, entry.content_type)


def _age(rival: Rival) -> tuple[float, Origin]:
    return rival.entry.updated_at, rival.origin


def _end(rival: Rival) -> tuple[float, float]:
    return rival.entry.expires_at if rival.entry.expires_at is not None else inf, rival.entry.updated_at


def _order(rival: Rival) -> Origin:
    return rival.origin


def _sum(numbers: Iterable[bytes]) -> bytes | None:
    total = None
    try:
        for number in numbers:
            parsed = parse_number(number, field="value")
            total = parsed if total is None else add_exactly(total, parsed)
            if total is None:
                return None
    except InvalidInput:
        return None
    return format_number(total) if total is not None else None


def _valued(entry: Entry, value: bytes) -> Entry:
    return entry._replace(value=value, content_type=JSON, content_hash=content_hash(JSON, value), deleted=False)


def _content(entry: Entry) -> Entry:
    return entry._replace(version=_NO_VERSION, origin=None, vector=(), local=False, rivals=())


def _conflict(entry: Entry, rivals: Iterable[Rival], known: frozenset[Origin]) -> str:
    """The same id at every site for the same writes; "" where none that is new differs from another."""
    contents: Mapping[Origin, Entry] = {rival.origin: rival.entry for rival in rivals if rival.of is None}
    if contents.keys() <= known or len({(each.deleted, each.content_hash) for each in contents.values()}) < 2:
        return ""
    return xxhash.xxh3_128_hexdigest(orjson.dumps([entry.key, sorted(map(list, contents))]))


def righted(row: Entry, came: Entry, site: str, version: Version, peer: str) -> Settled | None:
    """What this site has where its copy of what all are to have is `altered`; None where it is not."""
    mine = shared(row)
    if mine is None or not altered(mine, came, site, peer):
        return None
    return Settled(
        row._replace(version=version, rivals=(_before(came, peer),)) if row.local else came._replace(version=version)
    )


def altered(row: Entry, came: Entry, site: str, peer: str) -> bool:
    """Whether this site's copy is the wrong one of two that know of the same writes, and yet have other content.

    The site whose write it is knows what it wrote; where it is neither's, both go by the higher hash. Where each is of another
    write, since one of them was over at one site before it met the other, the later counts; where they are two of one name, the
    site that gave it twice is to say so.
    """
    if vector_of(row, site) != vector_of(came, peer) or mark_of(row, site) == mark_of(came, peer):
        return False
    mine, theirs = origin_of(row, site), origin_of(came, peer)
    if mine != theirs:
        return (came.updated_at, theirs) > (row.updated_at, mine)
    if came.updated_at != row.updated_at:
        return False
    if theirs.site in (site, peer):
        return theirs.site == peer
    return (came.deleted, came.content_hash) > (row.deleted, row.content_hash)
