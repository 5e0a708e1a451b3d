"""The credentials of the connection to NATS, read again from their files for every attempt."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from natterjack.errors import UsageError
from natterjack.settings import BrokerSettings

log = logging.getLogger(__name__)

_BLOCK = re.compile(r"-{3,}BEGIN ([A-Z ]+)-{3,}\s+([\w.=-]+)\s+-{3,}END \1-{3,}")
"""A block of a credentials file (NATS ADR-14)."""
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""Python has no later dates."""
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0


# ---- when something expires ----------------------------------------------------------------------


def jwt_expiry(jwt: str) -> float | None:
    """Return the `exp` claim in seconds since 1970, or None if the JWT does not expire before the
    year 10000.

    Raises: ValueError if it is no JWT.
    """
    parts = jwt.split(".")
    if len(parts) != 3:
        raise ValueError("a JWT has three parts")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        if not isinstance(claims, dict):
            raise ValueError("the claims of a JWT are an object")
        expiry = float(claims.get("exp") or 0)
    except (TypeError, OverflowError, RecursionError):
        raise ValueError("the claims of the JWT cannot be decoded") from None
    return expiry if 0 < expiry < _LATEST else None


def certificate_expiries(pem: str) -> list[float]:
    """Return the `notAfter` of each certificate in `pem`, in seconds since 1970.

    Raises: ValueError if a certificate cannot be decoded.
    """
    return [_not_after(ssl.PEM_cert_to_DER_cert(block)) for block in _CERTIFICATE.findall(pem)]


def _not_after(der: bytes) -> float:
    """Python's ssl module decodes only the certificates of peers, so this walks the DER encoding:
    RFC 5280, section 4.1 (the first fields) and 4.1.2.5 (times)."""
    try:
        _, at, _ = _element(der, 0)  # Certificate
        _, at, _ = _element(der, at)  # tbsCertificate
        tag, _, after = _element(der, at)
        if tag == _VERSION:
            _, _, after = _element(der, after)  # serialNumber
        for _ in ("signature", "issuer"):
            _, _, after = _element(der, after)
        _, at, _ = _element(der, after)  # validity
        _, _, after = _element(der, at)  # notBefore
        tag, begin, end = _element(der, after)
        text = der[begin:end].decode("ascii")
        if tag == _UTC_TIME:
            text = ("19" if text[:2] >= "50" else "20") + text
        elif tag != _GENERALIZED_TIME:
            raise ValueError("notAfter is no time")
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except IndexError:
        raise ValueError("the certificate is incomplete") from None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag, begin and end of the contents of the DER element at `at`."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(der[at + 2 : begin])
    return tag, begin, begin + length


# ---- what an attempt uses ------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """The credentials that one attempt to connect presents, and the CAs that it trusts."""

    tls: ssl.SSLContext | None = None
    """None for the system's CAs."""
    jwt: str | None = None
    public_key: str | None = None
    """The user's NKey; None if a JWT names the user, or if there is no key."""
    seed: bytes | None = field(default=None, repr=False)
    expiries: tuple[tuple[str, float], ...] = ()
    """The times at which parts of it expire, in seconds since 1970: `creds`, `cert`, `ca`. A bundle
    of CAs expires with the last of them, a chain of certificates with the first."""

    @property
    def expires(self) -> float | None:
        """When NATS no longer accepts this identity, in seconds since 1970. CAs do not count: they
        say what is trusted."""
        return min((at for what, at in self.expiries if what != "ca"), default=None)

    @property
    def expired(self) -> bool:
        """Whether NATS no longer accepts this identity, by this machine's clock."""
        return self.expires is not None and self.expires <= time.time()

    def sign(self, nonce: str) -> bytes:
        """Return the signature of the server's nonce, in base 64."""
        import nkeys  # 1 MB, and only with a key or credentials

        assert self.seed is not None
        pair = nkeys.from_seed(bytearray(self.seed))
        try:
            return base64.b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()


Value = TypeVar("Value")


class _Source(Generic[Value]):
    """Files that are read together, and what was made of them when they were last usable."""

    def __init__(
        self,
        paths: Sequence[Path | None],
        make: Callable[[list[bytes]], Value],
        describe: Callable[[Exception], str],
    ) -> None:
        """`make` decodes the contents of the files; it and reading may raise OSError or ValueError,
        which `describe` turns into a message for the user."""
        self._paths = [path for path in paths if path is not None]
        self._make = make
        self._describe = describe
        self._contents: list[bytes] | None = None
        self._value: Value | None = None
        self._problem: str | None = None

    def read(self) -> Value | None:
        """Return what the files have now, or what they had when they were last usable.

        None if there are no files. Raises: UsageError if they have never been usable.
        """
        if not self._paths:
            return None
        try:
            contents = [path.read_bytes() for path in self._paths]
            if contents != self._contents:
                self._value = self._make(contents)
                self._contents = contents
        except (OSError, ValueError) as error:  # half written, for example, or not to be read
            problem = self._describe(error)
            if self._value is None:
                raise UsageError(problem) from None
            if problem != self._problem:
                log.warning("%s; what was read before stays in use", problem)
            self._problem = problem
        else:
            if self._problem is not None:
                log.info("%s can be used again", ", ".join(map(str, self._paths)))
            self._problem = None
        return self._value


def _file(name: str, path: Path | None, make: Callable[[bytes], Value]) -> _Source[Value]:
    """A single file, which the setting `name` names."""

    def describe(error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"{name}: there is no file {path}"
        what = error.strerror if isinstance(error, OSError) else str(error)
        return f"{name}: {path} cannot be read: {what}"

    return _Source([path], lambda contents: make(contents[0]), describe)


_Tls = tuple[ssl.SSLContext, tuple[tuple[str, float], ...]]
"""A context, and the expiries of what it holds."""


def _tls_files(settings: BrokerSettings) -> _Source[_Tls]:
    ca, cert, key = settings.ca, settings.cert, settings.key

    def make(_: list[bytes]) -> _Tls:
        # If a file is replaced between reading and loading it, the next attempt loads it again.
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        if cert:
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert, key, password="")
        expiries = []
        for name, path, choose in (("ca", ca, max), ("cert", cert, min)):
            # OpenSSL has accepted the file. An expiry that cannot be found is left out.
            with contextlib.suppress(ValueError):
                if path is not None:
                    expiries.append((name, choose(certificate_expiries(path.read_text()))))
        return context, tuple(expiries)

    return _Source(
        [ca, cert, key if cert else None],
        make,
        lambda error: f"NATS_CA, NATS_CERT or NATS_KEY cannot be used: {error}",
    )


def _read_seed(content: bytes) -> tuple[bytes, str]:
    """Return a seed and its public key. Raises ValueError."""
    import nkeys

    seed = content.strip()
    try:
        pair = nkeys.from_seed(bytearray(seed))
        public_key = bytes(pair.public_key).decode()
        pair.wipe()
    except (nkeys.NkeysError, ValueError, IndexError):
        raise ValueError("it is no NKey seed") from None
    return seed, public_key


def read_creds(content: bytes) -> tuple[str, bytes, float | None]:
    """Return the JWT of a credentials file, its seed and when it expires. Raises ValueError."""
    blocks = dict(_BLOCK.findall(content.decode("ascii", "replace")))
    jwt, seed = blocks.get("NATS USER JWT"), blocks.get("USER NKEY SEED")
    if jwt is None or seed is None:
        raise ValueError("it has no complete JWT and seed")
    try:
        expiry = jwt_expiry(jwt)
    except ValueError:
        raise ValueError("its JWT cannot be decoded") from None
    return jwt, _read_seed(seed.encode())[0], expiry


class Credentials:
    """The files that the settings name, and what was last read from them."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.paths: list[Path] = [
            path
            for path in (settings.creds, settings.nkey, settings.ca, settings.cert, settings.key)
            if path is not None
        ]
        self.creds_path = settings.creds
        self._tls = _tls_files(settings)
        self._nkey = _file("NATS_NKEY", settings.nkey, _read_seed)
        self._creds = _file("NATS_CREDS", settings.creds, read_creds)
        self._last = Identity()

    @property
    def last(self) -> Identity:
        """The identity that was read last."""
        return self._last

    def read(self) -> Identity:
        """Read the files. An unusable file is logged, and its last usable content stays in use.

        Returns: the same object as long as nothing has changed.

        Raises: UsageError, which names the setting, if a file has never been usable.
        """
        tls, nkey, creds = self._tls.read(), self._nkey.read(), self._creds.read()
        context, expiries = tls if tls is not None else (None, ())
        jwt = public_key = seed = None
        if creds is not None:
            jwt, seed, expiry = creds
            if expiry is not None:
                expiries = (("creds", expiry), *expiries)
        elif nkey is not None:
            seed, public_key = nkey
        read = Identity(context, jwt, public_key, seed, expiries)
        if read != self._last:
            self._last = read
        return self._last
