"""Patterns, against a naive matcher and against hostile input."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.model.pattern import literal, parse_pattern
from tests.model.naive import matches, tokens_of

SIGNS = st.sampled_from(list("aabb*?*[]!-^\\.é"))
PATTERNS = st.lists(SIGNS, min_size=1, max_size=10).map("".join)
SETS = st.lists(st.sampled_from(list("ab]!-^\\[")), min_size=1, max_size=6).map("".join)
KEYS = st.lists(st.sampled_from(list("aab*?[]!-^\\.é")), max_size=8).map("".join)


def agrees(pattern: str, key: str) -> None:
    tokens = tokens_of(pattern)
    if tokens is None:
        with pytest.raises(InvalidInput):
            parse_pattern(pattern)
        return
    parsed = parse_pattern(pattern)
    matched = matches(tokens, key)
    assert parsed.matches(key) is matched
    if matched:
        assert key.startswith(parsed.prefix)
    if parsed.exact:
        assert matched is (key == parsed.prefix)


@given(PATTERNS, KEYS)
@example("*a*b*", "aabb")
@example("a*", "a")
@example("**", "")
@example("*?a*", "bab")
def test_it_matches_what_the_naive_matcher_matches(pattern: str, key: str) -> None:
    agrees(pattern, key)


@given(SETS, st.sampled_from("ab]!-^\\[cé"))
@example("]", "]")
@example("!]", "a")
@example("a-", "-")
@example("]-a", "^")
@example("a-\\]", "a")
@example("\\]a", "]")
@example("^a", "^")
@example("[-\\]", "\\")
def test_sets_match_what_the_naive_matcher_matches(inside: str, key: str) -> None:
    agrees(f"[{inside}]", key)
    agrees(f"*[{inside}]", key)


@given(st.text("ab*?[]\\-!é", min_size=1, max_size=20))
def test_an_escaped_text_matches_itself_only(text: str) -> None:
    pattern = parse_pattern("".join(f"\\{c}" for c in text))
    assert pattern.matches(text)
    assert (pattern.exact, pattern.prefix) == (True, text)
    assert not pattern.matches(text + "a")


@pytest.mark.parametrize(
    ("pattern", "prefix", "exact"),
    [
        ("task:1", "task:1", True),
        ("task:*", "task:", False),
        ("*", "", False),
        ("a?c", "a", False),
        ("ab[c]d", "ab", False),
        (r"a\*b*c", "a*b", False),
        (r"a\*b", "a*b", True),
    ],
)
def test_the_literal_prefix(pattern: str, prefix: str, exact: bool) -> None:
    parsed = parse_pattern(pattern)
    assert (parsed.text, parsed.prefix, parsed.exact) == (pattern, prefix, exact)


@pytest.mark.parametrize(
    ("pattern", "key", "matched"),
    [
        ("a.b", "aXb", False),
        ("a+", "aa", False),
        ("(a|b)", "a", False),
        ("^a$", "a", False),
        ("{a,b}", "a", False),
        ("task:*", "task:1:2", True),
        ("TASK:1", "task:1", False),
        ("?", "🎈", True),
        ("?", "e\u0301", False),
        ("[🍎-🎈]", "🎅", True),
        ("*", "\u2028", True),
        ("?", "\u2028", True),
        ("[!a]", "\u2028", True),
        ("[a-z]", "é", False),
        ("[a&&b]", "&", True),
        ("[a||b]", "|", True),
        ("[a~~b]", "~", True),
        (r"[\d]", "7", False),
        (r"[\d]", "d", True),
    ],
)
def test_nothing_else_is_special(pattern: str, key: str, matched: bool) -> None:
    assert parse_pattern(pattern).matches(key) is matched


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "has 0 bytes"),
        ("*" * 513, "has 513 bytes"),
        ("a\n*", "control character"),
        ("a\\", "lone"),
        ("[", "never closed"),
        ("[]", "never closed"),
        ("[!]", "never closed"),
        ("[a-", "never closed"),
        ("[a\\", "never closed"),
        ("[a-\\", "never closed"),
        ("[z-a]", "runs backwards, z-a"),
        ("[b-\\a]", "runs backwards, b-a"),
    ],
)
def test_errors_name_the_field_and_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^where: .*{reason}"):
        parse_pattern(pattern, field="where")


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("*a" * 256, "a" * 255 + "b" * 257),
        ("*a" * 200 + "*b", "a" * 512),
        ("*?" * 200 + "*b", "a" * 512),
        ("*[ab]" * 100 + "c", "ab" * 256),
        ("*" * 511 + "b", "a" * 512),
        ("*ab" * 170, "a" * 512),
    ],
)
def test_hostile_patterns_end(pattern: str, key: str) -> None:
    """A matcher that backtracks through all the stars would not be back in this lifetime."""
    assert not parse_pattern(pattern).matches(key)


def test_a_pattern_is_the_same_as_another_of_the_same_text() -> None:
    assert parse_pattern("a*") == parse_pattern("a*")
    assert len({parse_pattern("a*"), parse_pattern("a*"), parse_pattern("b*")}) == 2


@pytest.mark.parametrize("text", ["task", "ta*k", "[t]ask", "\\task", "a?b]", "!\\["])
def test_the_literal_of_a_text_matches_it_and_nothing_else(text: str) -> None:
    pattern = parse_pattern(literal(text))
    assert (pattern.exact, pattern.prefix, pattern.matches(text)) == (True, text, True)
