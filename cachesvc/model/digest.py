"""Digests: sums over what a store holds, by prefixes of the keys' hashes, so that two stores find where they differ.

Entries hash to 128 bits, and a sum adds those modulo 2¹²⁸ (Bellare and Micciancio's AdHash: against accidents, not against
an adversary). The rule that must not break: a sum depends on what is held, not on the order in which it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from cachesvc.errors import InvalidInput
from cachesvc.model.keys import Key

DIGITS: Final = 16  # of the hash of a key; a prefix of all of them is a single key, but for a collision
MOST: Final = 32  # keys of a leaf, which is then split in sixteen: about 16 on average
MODULUS: Final = 1 << 128
HEX: Final = "0123456789abcdef"
_BITS: Final = 4 * DIGITS
_ALLOWED: Final = frozenset(HEX)


class Sum(NamedTuple):
    """What two stores compare: the sum of the hashes of some entries, and how many these are."""

    total: int
    entries: int

    def __str__(self) -> str:
        return f"{self.total:x}:{self.entries}"


NOTHING: Final = Sum(0, 0)


def parse_sum(text: str, *, field: str) -> Sum:
    """What a peer says of a prefix, `sum:count`. Raises `InvalidInput` naming `field`."""
    total, colon, count = text.partition(":")
    if not (colon and 1 <= len(total) <= 32 and _ALLOWED.issuperset(total) and count.isascii() and count.isdigit()):
        raise InvalidInput(field, "is not a checksum (sum:count)")
    if len(count) > 16:
        raise InvalidInput(field, "has a count that no store has")
    return Sum(int(total, 16), int(count))


def parse_prefix(text: str, *, field: str) -> str:
    """A prefix as a peer names it. Raises `InvalidInput` naming `field`."""
    if len(text) > DIGITS or not _ALLOWED.issuperset(text):
        raise InvalidInput(field, f"is not a prefix of up to {DIGITS} hexadecimal digits")
    return text


def hashed(key: Key) -> str:
    """The hash of a key, in hexadecimal."""
    return xxh3_64_hexdigest(key.encode())


class _Node:
    """A prefix. A leaf holds its keys in one text, a line each (`key`, tab, hash), since no key has a control character.

    `total` is not reduced: as the sum of what is held it never grows past that.
    """

    __slots__ = ("below", "count", "lines", "total")

    def __init__(self) -> None:
        self.total = 0
        self.count = 0
        self.lines = b"\n"
        self.below: list[_Node] | None = None  # by the next digit; None: a leaf

    @property
    def sum(self) -> Sum:
        return Sum(self.total % MODULUS, self.count)


class Digest:
    """The tree of one store. A write costs a step for each level of it; the memory is about 100 bytes for each key."""

    def __init__(self) -> None:
        self._root = _Node()

    def __len__(self) -> int:
        return self._root.count

    def put(self, key: Key, mark: bytes | None) -> None:
        """The hash of what is held under the key is this now, of 16 bytes; None: nothing is."""
        name = key.encode()
        number, shift = xxh3_64_intdigest(name), _BITS
        node, path = self._root, []
        while (below := node.below) is not None:
            path.append(node)
            shift -= 4
            node = below[number >> shift & 15]
        lines = node.lines
        line = b"\n%b\t" % name
        start = lines.find(line)
        added = counted = 0
        if start >= 0:
            at = start + len(line)
            end = at + 32
            added = -int(lines[at:end], 16)
            counted = -1
            if mark is not None:
                node.lines = b"%b%b%b" % (lines[:at], mark.hex().encode(), lines[end:])
            else:
                node.lines = lines[:start] + lines[end:]
        elif mark is not None:
            node.lines = b"%b%b%b" % (line, mark.hex().encode(), lines)
        else:
            return
        if mark is not None:
            added += int.from_bytes(mark)
            counted += 1
        node.total += added
        node.count += counted
        for above in path:
            above.total += added
            above.count += counted
        if node.count > MOST and shift:
            _split(node, shift)

    def sum(self, prefix: str) -> Sum:
        """Of all keys whose hashes begin so."""
        node, depth = self._find(prefix)
        if depth == len(prefix):
            return node.sum
        marks = [int.from_bytes(mark) for _, mark in self.marks(prefix)]
        return Sum(sum(marks) % MODULUS, len(marks))

    def below(self, prefix: str) -> Mapping[str, Sum]:
        """What a prefix is made of: the sixteen longer ones that hold anything, or each key of a leaf by its whole hash."""
        node, depth = self._find(prefix)
        if depth == len(prefix) and node.below is not None:
            return {prefix + digit: one.sum for digit, one in zip(HEX, node.below, strict=True) if one.count}
        found: dict[str, Sum] = {}
        for key, mark in self.marks(prefix):
            before = found.get(text := hashed(key), NOTHING)
            found[text] = Sum((before.total + int.from_bytes(mark)) % MODULUS, before.entries + 1)
        return found

    def marks(self, prefix: str) -> Iterator[tuple[Key, bytes]]:
        """The keys whose hashes begin so, each with the hash of what is held."""
        node, depth = self._find(prefix)
        waiting = [node]
        while waiting:
            node = waiting.pop()
            if node.below is not None:
                waiting.extend(node.below)
                continue
            for key, mark in _held(node):
                if depth == len(prefix) or hashed(key).startswith(prefix):
                    yield key, mark

    def _find(self, prefix: str) -> tuple[_Node, int]:
        """The node of a prefix, or the leaf that its keys are in; and how many digits of it that is of."""
        node = self._root
        for depth, digit in enumerate(prefix):
            if node.below is None:
                return node, depth
            node = node.below[int(digit, 16)]
        return node, len(prefix)


def _held(node: _Node) -> Iterator[tuple[Key, bytes]]:
    for line in node.lines.split(b"\n"):
        if line:
            key, _, mark = line.decode().partition("\t")
            yield Key(key), bytes.fromhex(mark)


def _split(node: _Node, shift: int) -> None:
    """`shift`: bits of the hash that it does not tell apart."""
    shift -= 4
    node.below = [_Node() for _ in HEX]
    for key, mark in _held(node):
        name = key.encode()
        below = node.below[xxh3_64_intdigest(name) >> shift & 15]
        below.total += int.from_bytes(mark)
        below.count += 1
        below.lines += b"%b\t%b\n" % (name, mark.hex().encode())
    node.lines = b""
    for below in node.below:
        if below.count > MOST and shift:
            _split(below, shift)
