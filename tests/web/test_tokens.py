"""Tokens: which are believed, of which keys, for how long."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from cachesvc.errors import SettingsError, TokenExpired, Unauthenticated, Unavailable
from cachesvc.web.tokens import MAX_TOKEN, Tokens, follow_keys, own_keys, published_keys
from tests.fakes import FakeClock

SECRET = "a secret that is long enough for its hash"
OTHER = "another secret, as long as it has to be too"
RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PRIVATE = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
ALL = ("HS256", "RS256", "ES256", "EdDSA")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())  # PyJWT asks the system's clock


def pem(key: Any) -> bytes:
    made: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return made


def signed(clock: FakeClock, key: Any = SECRET, algorithm: str = "HS256", kid: str = "", **claims: Any) -> str:
    said = {"sub": "ann", "iss": "us", "aud": "cache", "exp": clock.now() + 60, "scope": "read:task:*"} | claims
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, key, algorithm, headers={"kid": kid} if kid else None)


def tokens(clock: FakeClock, *keys: Any, most: int = 10, algorithms: tuple[str, ...] = ("HS256",)) -> Tokens:
    own = own_keys(algorithms, [SECRET], [])
    return Tokens([*own, *keys], issuer="us", audience="cache", leeway=5.0, most=most, clock=clock)


def test_a_token_says_who_and_what(clock: FakeClock) -> None:
    identity = tokens(clock).identity(signed(clock))
    assert (identity.subject, identity.unrestricted) == ("ann", False)
    assert identity.may("read", "task:1")
    assert not identity.may("write", "task:1")
    assert not identity.may("read", "email:1")
    assert tokens(clock).identity(signed(clock, scope="read:task:* admin")).unrestricted


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys(clock: FakeClock, algorithm: str) -> None:
    keys = own_keys(ALL, [], [("key.pem", pem(PRIVATE[algorithm]))])
    known = Tokens(keys, issuer="us", audience="cache", leeway=5.0, most=10, clock=clock)
    assert known.identity(signed(clock, PRIVATE[algorithm], algorithm)).subject == "ann"
    with pytest.raises(Unauthenticated):
        known.identity(signed(clock))


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "says no exp"),
        ({"sub": None}, "says no sub"),
        ({"sub": 7}, "cannot be read"),
        ({"iss": "them"}, "another issuer"),
        ({"iss": None}, "says no iss"),
        ({"aud": "else"}, "another audience"),
        ({"aud": None}, "says no aud"),
        ({"nbf": 99_999_999_999}, "not valid yet"),
        ({"sub": ""}, "sub is empty"),
        ({"sub": "a\ud800"}, "lone surrogates"),
        ({"sub": "a\0"}, "control characters"),
        ({"scope": 7}, "scope is no text"),
        ({"scope": ["admin"]}, "scope is no text"),
        ({"exp": "9999999999"}, "exp is no number"),
        ({"iat": "1"}, "iat is no number"),
        ({"nbf": "1"}, "nbf is no number"),
        ({"jti": 7}, "cannot be read"),
        ({"exp": 10**400}, "cannot be read"),
        ({"iat": -(10**400)}, "cannot be read"),
        ({"exp": math.inf}, "cannot be read"),
        ({"scope": "read:["}, "cannot be read"),
    ],
)
def test_what_is_not_believed(clock: FakeClock, claims: Mapping[str, Any], why: str) -> None:
    known = tokens(clock)
    with pytest.raises(Unauthenticated, match=why):
        known.identity(signed(clock, **claims))
    assert (known.checked, known.refused) == (1, 1)


def test_a_token_whose_time_is_over_is_told_from_one_that_never_was_good(clock: FakeClock) -> None:
    with pytest.raises(TokenExpired):
        tokens(clock).identity(signed(clock, exp=1))
    with pytest.raises(Unauthenticated) as refused:
        tokens(clock).identity(signed(clock, OTHER, exp=1))
    assert type(refused.value) is Unauthenticated


def test_the_algorithm_is_that_of_the_key(clock: FakeClock) -> None:
    """Neither "none" nor a public key taken for a secret is believed (RFC 8725, 2.1)."""
    public = pem(RSA)
    known = Tokens(own_keys(ALL, [], [("key.pem", public)]), issuer="us", audience="cache", leeway=5.0, most=9, clock=clock)
    claims = {"sub": "eve", "iss": "us", "aud": "cache", "exp": int(clock.now()) + 60, "scope": "admin"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, claims)]
    unsigned = b".".join([*parts, b""]).decode()
    head = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=") + b"." + parts[1]
    confused = head + b"." + base64.urlsafe_b64encode(hmac.new(public, head, hashlib.sha256).digest()).rstrip(b"=")
    for forged in (unsigned, confused.decode(), signed(clock, OTHER), "garbage", "a.b.c", "", "é" * 10, "x" * (MAX_TOKEN + 1)):
        with pytest.raises(Unauthenticated):
            known.identity(forged)
        with pytest.raises(Unauthenticated):
            tokens(clock).identity(forged)


def test_a_secret_can_take_the_place_of_another(clock: FakeClock) -> None:
    keys = own_keys(["HS256"], [OTHER, SECRET], [])
    known = Tokens(keys, issuer="us", audience="cache", leeway=5.0, most=10, clock=clock)
    assert known.identity(signed(clock)).subject == known.identity(signed(clock, OTHER)).subject == "ann"


def test_a_checked_token_is_kept_until_it_ends_and_in_bounds(clock: FakeClock) -> None:
    known = tokens(clock, most=2)
    token = signed(clock)
    first = known.identity(token)
    assert known.identity(token) is first
    assert known.knows(first)
    clock.advance(64.0)  # within the leeway
    assert known.identity(token) is first
    for number in range(3):
        known.identity(signed(clock, sub=f"s{number}", exp=clock.now() + 60))
    assert not known.knows(first)
    assert len(known._known) == len(known._issued) == 2
    token = signed(clock, exp=clock.now() + 10)
    kept = known.identity(token)
    clock.advance(15.0)
    assert known.identity(token) is not kept  # asked anew, by the system's clock, which stood still


def test_the_subject_of_an_auth_message(clock: FakeClock) -> None:
    known = tokens(clock)
    assert known.greet(None) is None
    assert known.authenticate(signed(clock), "ann").subject == "ann"
    with pytest.raises(Unauthenticated, match="userId"):
        known.authenticate(signed(clock), "bob")


def jwk(key: Any, algorithm: str, kid: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "alg": algorithm, "kid": kid, **more}


def test_published_keys(clock: FakeClock) -> None:
    document = {
        "keys": [
            jwk(RSA, "RS256", "one"),
            jwk(EC, "ES256", "two"),
            jwk(ED, "EdDSA", "three", use="enc"),
            {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "HS256", "kid": "four"},
            {"kty": "odd"},
            7,
        ]
    }
    found = published_keys(json.dumps(document).encode(), ALL)
    assert [(key.algorithm, key.id) for key in found] == [("RS256", "one"), ("ES256", "two")]
    assert published_keys(b'{"keys": []}', ALL) == []
    for broken in (b"{", b"[]", b'{"keys": 7}'):
        with pytest.raises(ValueError, match=r"JSON|JWK set|unexpected"):
            published_keys(broken, ALL)


async def test_keys_are_rotated(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    known = Tokens([], issuer="us", audience="cache", leeway=5.0, most=10, clock=clock)
    documents = [jwk(RSA, "RS256", "old")]
    asked = 0
    away = False

    async def fetch() -> bytes:
        nonlocal asked
        asked += 1
        if away:
            raise Unavailable("away")
        return json.dumps({"keys": documents}).encode()

    async def until(count: int) -> None:
        async with asyncio.timeout(10):
            while asked < count:
                clock.advance(1.0)
                await asyncio.sleep(0)

    following = asyncio.create_task(follow_keys(known, fetch, ALL, clock, interval=300.0))
    await until(1)
    old = signed(clock, RSA, "RS256", "old")
    identity = known.identity(old)
    documents[:] = [jwk(EC, "ES256", "new")]
    new = signed(clock, EC, "ES256", "new", exp=clock.now() + 9_000)
    with pytest.raises(Unauthenticated):
        known.identity(new)
    assert known.unknown
    before = clock.now()
    await until(2)
    await asyncio.sleep(0)
    assert clock.now() - before < 60.0  # soon, and not at every token
    assert known.identity(new).subject == "ann"
    assert not known.knows(identity)
    with pytest.raises(Unauthenticated):
        known.identity(old)
    away = True
    await until(3)
    assert known.identity(new).subject == "ann"  # those of before are kept
    away = False
    documents.clear()
    with caplog.at_level("WARNING"):
        await until(6)
    with pytest.raises(Unauthenticated):  # what publishes none believes none
        known.identity(new)
    said = [record.message for record in caplog.records]
    assert [message.startswith("no key of an allowed") for message in said].count(True) == 1
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def test_a_key_file_of_another_kind_is_refused() -> None:
    private = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert private
    with pytest.raises(SettingsError, match="public_keys"):
        own_keys(["RS256"], [], [("ec.pem", pem(EC))])
    with pytest.raises(SettingsError, match="public_keys"):
        own_keys(ALL, [], [("odd.pem", b"odd")])
