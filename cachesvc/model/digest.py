"""Digests: sums over what a store holds, by prefixes of the keys' hashes, so that two stores find where they differ.

Entries hash to 128 bits, and a sum adds those modulo 2¹²⁸ (Bellare and Micciancio's AdHash: against accidents, not against
an adversary). The rule that must not break: a sum depends on what is held, not on the order in which it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import xxhash

from cachesvc.errors import InvalidInput
from cachesvc.model.keys import Key

DIGITS: Final = 16  # of the hash of a key; a prefix of all of them is a single key, but for a collision
MOST: Final = 32  # keys of a leaf, which is then split in sixteen: about 16 on average
MODULUS: Final = 1 << 128
HEX: Final = "0123456789abcdef"
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
    return xxhash.xxh3_64_hexdigest(key.encode())


class _Node:
    """A prefix. A leaf holds its keys in one text, a line each (`key`, tab, hash), since no key has a control character."""

    __slots__ = ("count", "lines", "total")

    def __init__(self) -> None:
        self.total = 0
        self.count = 0
        self.lines: bytes | None = b"\n"  # None: split


class Digest:
    """The tree of one store. A write costs a step for each level of it; the memory is about 100 bytes for each key."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {"": _Node()}

    def __len__(self) -> int:
        return self._nodes[""].count

    def put(self, key: Key, mark: bytes | None) -> None:
        """The hash of what is held under the key is this now, of 16 bytes; None: nothing is."""
        text = hashed(key)
        nodes = self._nodes
        depth = 0
        path = [node := nodes[""]]
        while node.lines is None:
            depth += 1
            path.append(node := nodes[text[:depth]])
        lines = node.lines
        line = b"\n%b\t" % key.encode()
        start = lines.find(line)
        added = counted = 0
        if start >= 0:
            end = start + len(line) + 32
            added -= int(lines[end - 32 : end], 16)
            counted -= 1
            lines = lines[:start] + lines[end:]
        if mark is not None:
            written = mark.hex().encode()
            added += int(written, 16)
            counted += 1
            lines = b"%b%b%b" % (line, written, lines)
        node.lines = lines
        if not (added or counted):
            return
        for above in path:
            above.total = (above.total + added) % MODULUS
            above.count += counted
        if node.count > MOST and depth < DIGITS:
            self._split(text[:depth], node)

    def sum(self, prefix: str) -> Sum:
        """Of all keys whose hashes begin so."""
        node = self._nodes.get(prefix)
        if node is not None:
            return Sum(node.total, node.count)
        marks = [int.from_bytes(mark) for _, mark in self.marks(prefix)]
        return Sum(sum(marks) % MODULUS, len(marks))

    def below(self, prefix: str) -> Mapping[str, Sum]:
        """What a prefix is made of: the sixteen longer ones that hold anything, or each key of a leaf by its whole hash."""
        node = self._nodes.get(prefix)
        if node is not None and node.lines is None:
            longer = {prefix + digit: self.sum(prefix + digit) for digit in HEX}
            return {name: found for name, found in longer.items() if found.entries}
        found: dict[str, Sum] = {}
        for key, mark in self.marks(prefix):
            before = found.get(text := hashed(key), NOTHING)
            found[text] = Sum((before.total + int.from_bytes(mark)) % MODULUS, before.entries + 1)
        return found

    def marks(self, prefix: str) -> Iterator[tuple[Key, bytes]]:
        """The keys whose hashes begin so, each with the hash of what is held."""
        name = prefix
        while name not in self._nodes:
            name = name[:-1]
        waiting = [name]
        while waiting:
            name = waiting.pop()
            node = self._nodes[name]
            if node.lines is None:
                waiting.extend(name + digit for digit in HEX)
                continue
            for line in node.lines.split(b"\n"):
                if line:
                    key, _, mark = line.decode().partition("\t")
                    if len(name) >= len(prefix) or hashed(Key(key)).startswith(prefix):
                        yield Key(key), bytes.fromhex(mark)

    def _split(self, prefix: str, node: _Node) -> None:
        held = list(self.marks(prefix))
        node.lines = None
        for digit in HEX:
            self._nodes[prefix + digit] = _Node()
        for key, mark in held:
            below = self._nodes[hashed(key)[: len(prefix) + 1]]
            below.total = (below.total + int.from_bytes(mark)) % MODULUS
            below.count += 1
            assert below.lines is not None
            below.lines += b"%b\t%b\n" % (key.encode(), mark.hex().encode())
        for digit in HEX:
            if self._nodes[prefix + digit].count > MOST and len(prefix) + 1 < DIGITS:
                self._split(prefix + digit, self._nodes[prefix + digit])
