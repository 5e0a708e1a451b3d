"""Certificates, NKeys and JWTs of a nats-server and its clients, for tests that renew them."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import nkeys


class Key(NamedTuple):
    """A key pair of NATS."""

    seed: bytes
    public: str

    def sign(self, data: bytes) -> bytes:
        return bytes(nkeys.from_seed(bytearray(self.seed)).sign(data))


def make_key(prefix: int = nkeys.PREFIX_BYTE_USER) -> Key:
    seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
    return Key(seed, bytes(nkeys.from_seed(bytearray(seed)).public_key).decode())


def replace(path: Path, content: bytes) -> None:
    """Replace a file atomically, as cert-manager's and Kubernetes' files are."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


# ---- certificates --------------------------------------------------------------------------------

_CONFIGURATION = """
[ca]
default_ca = authority
[authority]
database = index.txt
new_certs_dir = .
default_md = sha256
policy = policy
unique_subject = no
rand_serial = yes
[policy]
commonName = supplied
[leaf]
basicConstraints = critical,CA:FALSE
subjectAltName = DNS:localhost,IP:127.0.0.1
"""


def _openssl(*arguments: str | Path, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%d%H%M%SZ")


class Authority:
    """A certificate authority with its files in a directory of its own."""

    def __init__(self, directory: Path, name: str = "test CA") -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        (directory / "index.txt").touch()
        (directory / "openssl.cnf").write_text(_CONFIGURATION)
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
            "-days", "2", "-subj", f"/CN={name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", "ca-key.pem", "-out", "ca.pem",
            cwd=directory,
        )  # fmt: skip

    @property
    def certificate(self) -> bytes:
        return (self._directory / "ca.pem").read_bytes()

    def issue(self, name: str, *, until: float | None = None) -> tuple[bytes, bytes]:
        """Return a certificate for loopback addresses and its key. It is valid until `until`, in
        seconds since 1970, or for a day."""
        directory = self._directory
        _openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
            "-subj", f"/CN={name}", "-keyout", "key.pem", "-out", "request.pem",
            cwd=directory,
        )  # fmt: skip
        now = time.time()
        _openssl(
            "ca", "-batch", "-notext", "-config", "openssl.cnf", "-extensions", "leaf",
            "-cert", "ca.pem", "-keyfile", "ca-key.pem", "-in", "request.pem", "-out", "cert.pem",
            "-startdate", _time(now - timedelta(hours=1).total_seconds()),
            "-enddate", _time(until or now + timedelta(days=1).total_seconds()),
            cwd=directory,
        )  # fmt: skip
        return (directory / "cert.pem").read_bytes(), (directory / "key.pem").read_bytes()


# ---- JWTs ----------------------------------------------------------------------------------------


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def make_jwt(issuer: Key, subject: str, nats: dict[str, Any], *, until: float | None = None) -> str:
    """Return a JWT of NATS (https://docs.nats.io, decentralized authentication)."""
    claims: dict[str, Any] = {
        "jti": secrets.token_hex(16), "iat": int(time.time()), "iss": issuer.public,
        "sub": subject, "name": "test", "nats": {"version": 2, **nats},
    }  # fmt: skip
    if until is not None:
        claims["exp"] = int(until)
    head = _encode(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    signed = f"{head}.{_encode(json.dumps(claims).encode())}"
    return f"{signed}.{_encode(issuer.sign(signed.encode()))}"


class Operator:
    """An operator with an account for users of natterjack."""

    def __init__(self) -> None:
        self._operator = make_key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account, self._system = (make_key(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))

    def configuration(self) -> str:
        """The part of nats-server's configuration that trusts this operator."""
        operator, account, system = self._operator, self._account.public, self._system.public
        limits = dict.fromkeys(
            ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage",
             "disk_storage", "streams", "consumer"), -1,
        )  # fmt: skip
        nats = {"type": "account", "limits": {**limits, "wildcards": True}}
        bare = {**nats, "limits": {k: v for k, v in nats["limits"].items() if "storage" not in k}}  # type: ignore[attr-defined]
        trusted = make_jwt(
            operator, operator.public, {"type": "operator", "system_account": system}
        )
        return (
            f"operator: {trusted}\nsystem_account: {system}\nresolver: MEMORY\n"
            f"resolver_preload: {{\n  {account}: {make_jwt(operator, account, nats)}\n"
            f"  {system}: {make_jwt(operator, system, bare)}\n}}\n"
        )

    def creds(self, *, until: float | None = None) -> bytes:
        """A credentials file of a new user, who may do everything until `until`."""
        user = make_key()
        nats = {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        jwt = make_jwt(self._account, user.public, nats, until=until)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        ).encode()
