"""The section of who may call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cachesvc.errors import SettingsError
from cachesvc.protocol.algorithms import SYMMETRIC, Algorithm
from cachesvc.settings.refusals import NOT_GIVEN
from cachesvc.settings.values import LISTED, Allowed, Duration, Section, Span

LEAST_SECRET = 32  # bytes: as long as the hash (RFC 7518, 3.2)


class Auth(Section):
    """Who may call: everyone on this machine, or who shows a token that is signed by a key that is known here."""

    mode: Literal["none", "jwt"] = "none"
    algorithms: Annotated[
        tuple[Algorithm, ...], LISTED, Allowed("a list of HS256, RS256, ES256 and EdDSA"), Field(max_length=4)
    ] = ()
    # of HS256; the tokens of each are believed, so that one can take the place of another
    secrets: Annotated[tuple[str, ...], LISTED, Allowed("up to 10 secrets"), Field(max_length=10, repr=False)] = ()
    public_keys: Annotated[tuple[Path, ...], LISTED, Allowed("up to 10 paths of PEM files"), Field(max_length=10)] = ()
    jwks_url: str = Field("", pattern=r"^(https?://[^\s]+)?$", max_length=1_000)
    jwks_interval: Duration = 300.0
    issuer: str = Field("", max_length=1_000)
    audience: str = Field("", max_length=1_000)
    leeway: Span = 5.0  # between the clocks of issuer and node
    max_tokens: int = Field(10_000, ge=1, le=1_000_000)  # remembered once they were checked
    revoked_for: Duration = 30 * 86_400.0  # a revocation that does not say when its tokens end: longer than they may last
    max_revocations: int = Field(100_000, ge=1, le=10_000_000)  # over it the next is refused
    # shared with the nodes of other sites, which sign a challenge with one
    node_secrets: Annotated[tuple[str, ...], LISTED, Allowed("up to 10 secrets"), Field(max_length=10, repr=False)] = ()
    # who shows a token with one of these scopes over the socket must besides sign a challenge with one of these secrets
    step_up: Annotated[tuple[str, ...], LISTED, Allowed('up to 16 scopes, like "admin"'), Field(max_length=16)] = ()
    step_up_secrets: Annotated[tuple[str, ...], LISTED, Allowed("up to 10 secrets"), Field(max_length=10, repr=False)] = ()
    node_token: str = Field("", max_length=8_192, repr=False)  # that this node shows to its peers, with the scope node:*


def check_auth(auth: Auth) -> None:
    """What no setting of tokens can tell alone; raises `SettingsError`."""
    for name in ("secrets", "node_secrets", "step_up_secrets"):
        if any(len(secret.encode()) < LEAST_SECRET for secret in getattr(auth, name)):
            raise SettingsError(f"auth.{name}", "***", f"must be of at least {LEAST_SECRET} bytes each")
    if auth.step_up and not auth.step_up_secrets:
        raise SettingsError("auth.step_up_secrets", NOT_GIVEN, "must be given with auth.step_up")
    if auth.mode == "none":
        if auth.step_up:
            raise SettingsError("auth.step_up", ", ".join(auth.step_up), 'needs auth.mode = "jwt"')
        return
    for name in ("algorithms", "issuer", "audience"):
        if not getattr(auth, name):
            raise SettingsError(f"auth.{name}", NOT_GIVEN, 'must be given with auth.mode = "jwt"')
    if not (auth.secrets or auth.public_keys or auth.jwks_url):
        raise SettingsError("auth.secrets", NOT_GIVEN, "give auth.secrets, auth.public_keys or auth.jwks_url")
    if auth.secrets and SYMMETRIC not in auth.algorithms:
        raise SettingsError("auth.secrets", "***", f"are of {SYMMETRIC}, which auth.algorithms does not name")
    if (auth.public_keys or auth.jwks_url) and set(auth.algorithms) <= {SYMMETRIC}:
        raise SettingsError("auth.algorithms", SYMMETRIC, "must name an algorithm of public keys, as those are given")
