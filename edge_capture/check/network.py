"""Checks of the way to the broker: names, ports, TLS and the server's certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import ssl
import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from natterjack.broker.login.attempts import describe
from natterjack.broker.login.credentials import certificate_expiries
from natterjack.doctor.finding import Check, Finding, failed, ok, one_line, skipped, warning
from natterjack.process.run import abort

from .certificates import judged_expiry

_PORTS = {"ws": 80, "wss": 443}
_LONGEST_INFO = 1 << 20


class Server(NamedTuple):
    """A server of NATS_URL."""

    scheme: str
    host: str
    port: int

    @property
    def place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def servers(urls: str) -> list[Server]:
    """The servers that NATS_URL names. The settings have been validated. Pure."""
    found = []
    for url in urls.split(","):
        parts = urlsplit(url.strip() if "://" in url else f"nats://{url.strip()}")
        port = parts.port or _PORTS.get(parts.scheme, 4222)
        found.append(Server(parts.scheme, parts.hostname or "", port))
    return list(dict.fromkeys(found))


def checks(urls: str, tls: ssl.SSLContext | None) -> list[Check]:
    """The checks of each server; `tls` is the context of the connection, None for the system's."""
    found: list[Check] = []
    named = servers(urls)
    for server in named:
        place = f" {server.place}" if len(named) > 1 else ""
        way = Way(server, tls, place)
        found += [(f"dns{place}", way.name), (f"tls{place}", way.encryption)]
    return found


class Way:
    """The way to one server."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None, place: str = "") -> None:
        self._server = server
        self._tls = tls
        self._place = place

    async def name(self) -> Finding:
        """Resolve the host name of the server."""
        check, host = f"dns{self._place}", self._server.host
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return skipped(check, f"{host} is an address")
        begin = time.monotonic()
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, self._server.port)
        except OSError as error:
            cure = "correct NATS_URL, or the name server of this machine (/etc/resolv.conf)"
            return failed(check, f"{host} cannot be resolved: {one_line(error.strerror)}", cure)
        took_ms = (time.monotonic() - begin) * 1000
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        text = f"{host} is {', '.join(addresses[:4])}"
        text += f" and {len(addresses) - 4} more" if len(addresses) > 4 else ""
        return ok(check, f"{text} ({took_ms:.0f} ms)")

    async def encryption(self) -> Sequence[Finding]:
        """TLS, and the server's certificate."""
        check, server = f"tls{self._place}", self._server
        try:
            certificate, version = await self._handshake()
        except ssl.SSLError as error:
            return [failed(check, one_line(describe(error)), _cure(error))]
        except OSError as error:
            cure = "start the broker, correct NATS_URL, or open the firewall for this port"
            reason = one_line(describe(error))
            return [failed(check, f"{server.place} cannot be reached: {reason}", cure)]
        except ValueError:
            cure = "correct NATS_URL; the port for WebSocket needs wss:// or ws://"
            return [failed(check, f"{server.place} does not answer as a NATS server", cure)]
        if certificate is None:
            text = "not used"
            if _local(server.host):
                return [ok(check, f"{text}: the broker is on this machine")]
            cure = "use tls:// or wss:// in NATS_URL, and a certificate on the server"
            return [warning(check, f"{text}: audio crosses the network unencrypted", cure)]
        findings = [ok(check, f"{version} with {server.place}")]
        name = f"server certificate{self._place}"
        with contextlib.suppress(ValueError):  # OpenSSL has accepted what cannot be decoded here
            pem = ssl.DER_cert_to_PEM_cert(certificate)
            findings.append(
                judged_expiry(name, "server", certificate_expiries(pem)[0], time.time())
            )
        return findings

    async def _handshake(self) -> tuple[bytes | None, str]:
        """Return the server's certificate (DER), or None without TLS, and TLS's version.

        Raises: OSError, of which ssl.SSLError is one, and ValueError if it is no NATS server.
        """
        server, context = self._server, self._tls or ssl.create_default_context()
        web = server.scheme in _PORTS
        reader, writer = await asyncio.open_connection(
            server.host,
            server.port,
            limit=_LONGEST_INFO,
            ssl=context if server.scheme == "wss" else None,
        )
        try:
            if not web:
                verb, _, text = (await reader.readline()).partition(b" ")
                if verb != b"INFO":
                    raise ValueError("it is no NATS server")
                info = json.loads(text)
                if server.scheme == "tls" or (isinstance(info, dict) and info.get("tls_required")):
                    await writer.start_tls(context, server_hostname=server.host)
            tls = writer.get_extra_info("ssl_object")
            if tls is None:
                return None, ""
            return tls.getpeercert(binary_form=True), tls.version() or "TLS"
        finally:
            abort(writer.transport)


def _local(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _cure(error: ssl.SSLError) -> str:
    """Return the advice to give after a failed handshake."""
    text = f"{getattr(error, 'verify_message', '')} {error.reason or ''}".lower()
    if "expired" in text and "alert" not in text:
        return "renew the certificate of the NATS server, or set this machine's clock"
    if "not yet valid" in text:
        return "set this machine's clock"
    if "hostname" in text or "ip address mismatch" in text:
        return "use a name in NATS_URL that the server's certificate has"
    if "self" in text or "issuer" in text or "unable to get" in text:
        return "set NATS_CA to the certificate of the CA that signed the server's"
    if "alert" in text:
        return "set NATS_CERT and NATS_KEY to a certificate that the server accepts"
    return "the server does not offer TLS on this port; correct NATS_URL or the server"
