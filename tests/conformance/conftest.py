"""The suites are not test modules by name: their asserts are to explain themselves all the same."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.conformance.authority_store",
    "tests.conformance.authority_jobs",
    "tests.conformance.authority_writes",
    "tests.conformance.authority_log",
    "tests.conformance.authority_rows",
    "tests.conformance.lease_contract",
    "tests.conformance.tier_contract",
)
