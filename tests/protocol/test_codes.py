"""The codes: which there are, and which tell a client to try again."""

from __future__ import annotations

from cachesvc.protocol.codes import Code


def test_the_table_is_as_written() -> None:
    assert {code.value for code in Code if code.recoverable} == {
        "INTERNAL",
        "TOO_MANY_REQUESTS",
        "UNAVAILABLE",
        "OUTCOME_UNKNOWN",
        "TOKEN_EXPIRED",
        "RECOVERY_UNAVAILABLE",
        "VERSION_CONFLICT",
    }
    assert {code.value for code in Code if not code.recoverable} == {
        "UNAUTHENTICATED",
        "FORBIDDEN",
        "NOT_FOUND",
        "BAD_MESSAGE",
        "UNKNOWN_TYPE",
        "TOO_LARGE",
        "LIMIT_EXCEEDED",
        "CONFLICT_CLOSED",
    }
