"""The keys of the gateway's clients, from a file that is read again when it has changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from natterjack.errors import UsageError
from natterjack.fleet.keys import KeyRecord, key_id, read_keys

from .grant import Grant
from .refused import Reason, Refused
from .tokens import Tokens, is_token

log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""A changed file is noticed this many seconds later, at most."""


class Keyring:
    """Checks the secrets of clients: keys, and tokens that were made with keys.

    Without a file, any client is let in, secret or not, with all rights over one tenant; the
    gateway listens on loopback only, then.
    """

    def __init__(
        self,
        path: Path | None,
        tokens: Tokens | None = None,
        *,
        open_tenant: str = "default",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the keys. Raises UsageError if the file is missing or invalid."""
        self._path, self._now, self._clock = path, now, clock
        self.tokens = tokens or Tokens(())
        self._open = Grant.everything(open_tenant)
        self._stamp = self._stamp_now()
        self._keys: dict[str, KeyRecord] = {} if path is None else read_keys(path)
        self._look_at = clock() + _LOOK_S

    @property
    def open(self) -> bool:
        """Whether any client is let in."""
        return self._path is None

    def grant(self, secret: str | None) -> Grant | None:
        """Return the grant of the holder of `secret`, or None; `check` tells the reason."""
        try:
            return self.check(secret)
        except Refused:
            return None

    def check(self, secret: str | None) -> Grant:
        """Return the grant of the holder of `secret`, which is a key or a token.

        Raises: Refused if it is missing, wrong or expired.
        """
        if self._path is None:
            return self._open
        if not secret:
            raise Refused(Reason.MISSING, "no key was given: `natterjack keys add` makes one")
        self._look()
        now = self._now()
        if not is_token(secret):
            return Grant.of(self._valid(key_id(secret), secret, now))
        claims = self.tokens.check(secret, now)
        record = self._valid(claims.key_id, None, now)
        return Grant.of(record).narrowed(
            doors=claims.doors,
            kinds=claims.kinds,
            conversation=claims.conversation,
            expires_at=claims.expires_at,
        )

    def _valid(self, identity: str | None, secret: str | None, now: datetime) -> KeyRecord:
        """The key with an ID, which `secret` must match unless it is None. Raises Refused."""
        record = self._keys.get(identity or "")
        if record is None or (secret is not None and not record.matches(secret)):
            raise Refused(Reason.WRONG, "the key is not known here")
        if record.expired(now):
            raise Refused(
                Reason.EXPIRED, f"the key {record.id} expired at {record.expires_at:%Y-%m-%d %H:%M}"
            )
        return record

    def make_token(
        self,
        grant: Grant,
        *,
        seconds: float,
        doors: frozenset[str],
        kinds: frozenset[str],
        conversation: str | None,
    ) -> tuple[str, datetime]:
        """Sign a token with a part of the rights of `grant`. Raises Refused, UsageError."""
        return self.tokens.make(
            grant, self._now(), seconds=seconds, doors=doors, kinds=kinds, conversation=conversation
        )

    # ---- the file ---------------------------------------------------------------------------

    def _stamp_now(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _look(self) -> None:
        """Read the file again if it has changed. An invalid one is logged, and the keys stay."""
        if self._path is None or (clock := self._clock()) < self._look_at:
            return
        self._look_at = clock + _LOOK_S
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except UsageError as error:
            log.error("the keys stay as they were: %s", error)
        else:
            log.info("read %d keys from %s", len(self._keys), self._path)
