"""Algorithms: by which tokens may be signed (RFC 7518, RFC 8037). None of these is ever meant by what a token says alone."""

from __future__ import annotations

from typing import Final, Literal

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
SYMMETRIC: Final = "HS256"  # the one whose key both sides keep secret
