"""NKeys, the JWTs that they sign (NATS decentralized authentication), and credentials files.

A JWT is a header, claims and a signature, each in URL-safe base 64; nats-server checks them. See
https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt and the
structs of https://github.com/nats-io/jwt, version 2.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import time
from typing import Any, NamedTuple

OPERATOR, ACCOUNT, USER = 14 << 3, 0 << 3, 20 << 3
"""The type bytes of NKeys, which make the first letter of a public key: O, A or U."""
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
MAX_JWT_BYTES = 256 * 1024


class Key(NamedTuple):
    """A key pair. Its `repr` shows the public key alone."""

    seed: bytes
    public: str

    def __repr__(self) -> str:
        return f"Key({self.public})"

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`."""
        import nkeys  # 1 MB, and an edge without credentials needs none

        pair = nkeys.from_seed(bytearray(self.seed))
        try:
            return bytes(pair.sign(data))
        finally:
            pair.wipe()


def make_key(kind: int = USER) -> Key:
    """Make a key pair of a kind: OPERATOR, ACCOUNT or USER."""
    import nkeys

    return read_key(bytes(nkeys.encode_seed(os.urandom(32), kind)))


def read_key(seed: bytes) -> Key:
    """Return the key pair of a seed. Raises ValueError."""
    import nkeys

    seed = seed.strip()
    try:
        pair = nkeys.from_seed(bytearray(seed))
        public = bytes(pair.public_key).decode()
        pair.wipe()
    except (nkeys.NkeysError, ValueError, IndexError):
        raise ValueError("it is no NKey seed") from None
    return Key(seed, public)


def is_public_key(text: str, kind: int = USER) -> bool:
    """Whether `text` is a public key of this kind: a type byte, 32 bytes and a CRC-16, in base
    32."""
    if len(text) != 56:
        return False
    try:
        raw = base64.b32decode(text)
    except ValueError:
        return False
    checksum = int.from_bytes(raw[-2:], "little")
    return len(raw) == 35 and raw[0] == kind and binascii.crc_hqx(raw[:-2], 0) == checksum


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def make_jwt(
    issuer: Key, subject: str, nats: dict[str, Any], *, name: str, expires: float | None = None
) -> str:
    """Return the JWT in which `issuer` says `nats` of the public key `subject`. `expires` is in
    seconds since 1970."""
    claims: dict[str, Any] = {
        "jti": secrets.token_hex(16), "iat": int(time.time()), "iss": issuer.public,
        "sub": subject, "name": name, "nats": {**nats, "version": 2},
    }  # fmt: skip
    if expires is not None:
        claims["exp"] = int(expires)
    signed = ".".join(
        _encode(json.dumps(part, separators=(",", ":")).encode()) for part in (_HEADER, claims)
    )
    return f"{signed}.{_encode(issuer.sign(signed.encode()))}"


def read_claims(jwt: str) -> dict[str, Any]:
    """Return the claims of a JWT whose signature its reader need not check. Raises ValueError."""
    parts = jwt.split(".")
    if len(parts) != 3 or len(jwt) > MAX_JWT_BYTES:
        raise ValueError("it is no JWT")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict) or not isinstance(claims.get("nats"), dict):
        raise ValueError("the claims of the JWT cannot be decoded")
    return claims


def same_claims(one: str, other: str) -> bool:
    """Whether two JWTs say the same, apart from when they were issued."""
    try:
        first, second = read_claims(one), read_claims(other)
    except ValueError:
        return False
    varying = dict.fromkeys(("jti", "iat"))
    return {**first, **varying} == {**second, **varying}


def credentials(jwt: str, seed: bytes) -> str:
    """Return the text of a credentials file (NATS ADR-14)."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "This file has a secret key. Whoever has it can connect as this user.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )
