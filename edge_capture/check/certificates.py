"""Checks of files: until when certificates and credentials are valid, and who may read secrets."""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from natterjack.broker.login.credentials import Credentials, Identity
from natterjack.doctor.finding import Finding, failed, ok, one_line, warning
from natterjack.errors import UsageError
from natterjack.settings import BrokerSettings

_DAY_S = 86_400
_SOON_DAYS = 14
_NAMES = {"creds": "credentials", "cert": "client certificate", "ca": "CA certificate"}
_CURES = {
    "creds": "renew NATS_CREDS: `natterjack users` on the machine that keeps the keys",
    "cert": "renew NATS_CERT and NATS_KEY",
    "ca": "put the new CA into NATS_CA beside the old one, before servers use it",
    "server": "renew the certificate of the NATS server",
}


def judged_expiry(check: str, what: str, expires: float, now: float) -> Finding:
    """Judge when something expires: `creds`, `cert`, `ca` or `server`, in seconds since 1970.
    Pure."""
    try:
        date = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        date = "a date beyond the year 9999"
    days = (expires - now) / _DAY_S
    if days <= 0:
        return failed(check, f"expired on {date}", _CURES[what])
    text = f"valid for {days:.0f} more days, until {date}"
    if days < 2:
        text = f"valid for {days * 24:.1f} more hours, until {date}"
    return warning(check, text, _CURES[what]) if days < _SOON_DAYS else ok(check, text)


def credentials(settings: BrokerSettings) -> tuple[Identity | None, list[Finding]]:
    """Read the files as a connection does. Returns no identity if they cannot be used."""
    try:
        identity = Credentials(settings).read()
    except UsageError as error:
        cure = "correct the setting or the file; `natterjack users` makes credentials"
        return None, [failed("credentials", one_line(error), cure)]
    expiries = dict(identity.expiries)
    text = _described(settings)
    found = [] if text is None or "creds" in expiries else [ok("credentials", text)]
    if text is None:
        cure = (
            "enroll this machine (`natterjack-edge enroll TOKEN`), or give it a user of its own: "
            "`natterjack users add edge`, then NATS_NKEY or NATS_CREDS"
        )
        found.append(warning("credentials", "none: anybody may connect to this broker", cure))
    for what, expires in identity.expiries:
        found.append(judged_expiry(_NAMES[what], what, expires, time.time()))
    found += exposed([settings.creds, settings.nkey, settings.key if settings.cert else None])
    return identity, found


def _described(settings: BrokerSettings) -> str | None:
    """Describe the credentials in the settings. Return None if there are none."""
    if settings.creds:
        return f"{settings.creds}, which does not expire"
    if settings.nkey:
        return f"the NKey in {settings.nkey}, which does not expire"
    if settings.user:
        return f"user {one_line(settings.user, 60)}" + (
            "" if settings.password else ", no password"
        )
    if "@" in settings.url:
        return "in NATS_URL, which every user of this machine may see if it is a flag"
    return f"the client certificate {settings.cert}" if settings.cert else None


def exposed(paths: Sequence[Path | None]) -> list[Finding]:
    """A warning for secrets that every user of this machine may read."""
    open_ones = []
    for path in filter(None, paths):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # the check of the credentials says so
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            open_ones.append(str(path))
    if not open_ones:
        return []
    names = ", ".join(open_ones)
    text = f"every user of this machine may read {names}"
    return [warning("secrets", text, f"chmod o= {names}")]
