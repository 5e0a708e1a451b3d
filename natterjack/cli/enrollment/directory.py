"""The directory of `natterjack users` on a broker with JWTs: the operator's keys, the accounts, and
credentials files.

`jwt/` has the secret keys: of the operator, who signs accounts, of each account, of the signing key
of each user, and `edges.nk`, which is the registrar's. nats-server needs none of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from natterjack.broker.login.credentials import read_creds
from natterjack.broker.login.jwt import (
    ACCOUNT,
    OPERATOR,
    USER,
    Key,
    credentials,
    make_jwt,
    make_key,
    read_key,
    same_claims,
)
from natterjack.broker.roles import User
from natterjack.errors import UsageError
from natterjack.process.files import replace_text
from natterjack.subjects import check_token

from ..users_config import durables, edge_account
from .claims import (
    EDGE_PREFIX,
    ENROLLMENT,
    FOREVER,
    SYSTEM,
    account_claims,
    account_of,
    edge_template,
    invited_claims,
    permission_claims,
    read_revoked,
    scope,
    sections,
    still_revoked,
)

FOLDER = "jwt"
_OPERATOR, _EDGES, _SYSTEM_USER = "operator", "edges", "system"
_REVOKED, _CAPTIONS = "revoked.json", "captions.json"
_TENANT_KEYS, _SIGNERS = "accounts", "signers"
SYSTEM_INBOX = "_INBOX_system"
RESOLVER_DIR = "data/jwt"
"""Where nats-server keeps the accounts; relative to the directory in which it is started."""


class SignedDirectory:
    """The part of the directory that has to do with JWTs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._folder = directory / FOLDER

    @property
    def used(self) -> bool:
        """Whether the users of this directory have JWTs."""
        return (self._folder / f"{_OPERATOR}.nk").exists()

    @property
    def system_credentials(self) -> Path:
        """The credentials file of the user who pushes accounts."""
        return self._folder / f"{_SYSTEM_USER}.creds"

    # ---- keys ------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the operator. Idempotent."""
        self._key(f"{_OPERATOR}.nk", OPERATOR)

    def account_key(self, name: str) -> Key:
        """Return the key of an account, which is made when it is first used."""
        return self._key(f"{_TENANT_KEYS}/{name}.nk", ACCOUNT)

    def _key(self, name: str, kind: int) -> Key:
        path = self._folder / name
        try:
            return read_key(path.read_bytes())
        except FileNotFoundError:
            key = make_key(kind)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_text(path, f"{key.seed.decode()}\n", mode=0o600)
            return key
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from None

    def _tenants(self) -> list[str]:
        """The tenants that have an account."""
        found = (self._folder / _TENANT_KEYS).glob(f"{EDGE_PREFIX}*.nk")
        return sorted(path.stem.removeprefix(EDGE_PREFIX) for path in found)

    def allow_captions(self, tenant: str) -> None:
        """Let invitations of a tenant grant captions. Idempotent."""
        tenants = sorted({*self._caption_tenants(), tenant})
        replace_text(self._folder / _CAPTIONS, json.dumps(tenants) + "\n", mode=0o600)

    def _caption_tenants(self) -> list[str]:
        path = self._folder / _CAPTIONS
        try:
            return [check_token("tenant", tenant) for tenant in json.loads(path.read_text())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from None

    # ---- revocation ------------------------------------------------------------------------------

    def revoked(self) -> dict[str, dict[str, float]]:
        """Return the keys that are refused, by account, and until when, in seconds since 1970."""
        path = self._folder / _REVOKED
        try:
            content = json.loads(path.read_text())
            found = {str(name): read_revoked(keys) for name, keys in content.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from None
        return {name: still_revoked(keys, time.time()) for name, keys in found.items()}

    def revoke(self, account: str, keys: Iterable[str], until: float = FOREVER) -> None:
        """Remember that `keys` are refused in an account, from the next push on.

        `until`, in seconds since 1970, is when the last JWT of these keys has expired: later, NATS
        refuses them without being told, and the account's JWT need not list them.
        """
        found = self.revoked()
        known = found.setdefault(account, {})
        for key in keys:
            known[key] = max(until, known.get(key, 0))
        replace_text(self._folder / _REVOKED, json.dumps(found, indent=2) + "\n", mode=0o600)

    # ---- what is made of it ----------------------------------------------------------------------

    def add_tenant(self, tenant: str) -> None:
        """Make an account for the edges of a tenant. Idempotent."""
        self.account_key(edge_account(tenant))

    def accounts(self, users: Sequence[User], connections: int) -> dict[str, str]:
        """Return the JWT of each account, by its public key. One that says nothing new is kept."""
        captions = self._caption_tenants()
        found = sections(users, self._tenants(), connections, captions)
        keys = {name: self.account_key(name) for name in found}
        public = {name: key.public for name, key in keys.items()}
        operator, revoked = self._key(f"{_OPERATOR}.nk", OPERATOR), self.revoked()
        edges = self._key(f"{_EDGES}.nk", ACCOUNT).public
        jwts = {}
        for name, section in found.items():
            scopes = list(self._scopes(name, users))
            if name.startswith(EDGE_PREFIX):
                tenant = name.removeprefix(EDGE_PREFIX)
                template = edge_template(tenant, captions=tenant in captions)
                scopes.append(scope(edges, "edge", template))
            claims = account_claims(section, public, scopes, revoked.get(name, ()))
            path = self._folder / _TENANT_KEYS / f"{name}.jwt"
            jwt = make_jwt(operator, keys[name].public, claims, name=name)
            jwts[keys[name].public] = _kept(path, jwt)
        return jwts

    def _scopes(self, account: str, users: Sequence[User]) -> Iterable[Mapping[str, Any]]:
        reserved = durables(users)
        for user in users:
            if account_of(user) == account:
                config = user.permissions(() if user.role == "edge" else reserved).config()
                yield scope(self._signer(user).public, user.id, permission_claims(config))

    def _signer(self, user: User) -> Key:
        return self._key(f"{_SIGNERS}/{user.id}.nk", ACCOUNT)

    def write(self, users: Sequence[User], connections: int) -> dict[str, str]:
        """Write the accounts and the credentials of all users. Returns the accounts' JWTs."""
        jwts = self.accounts(users, connections)
        for user in users:
            account = self.account_key(account_of(user))
            for key in user.keys[:1]:
                claims = {"type": "user", "issuer_account": account.public}
                self._write_user(user, make_jwt(self._signer(user), key, claims, name=user.id))
        self._write_system()
        return jwts

    def _write_user(self, user: User, jwt: str) -> None:
        seed = self.directory / f"{user.id}.nk"
        if not seed.exists():  # its key was made elsewhere
            _kept(self.directory / f"{user.id}.jwt", jwt)
            return
        _keep_credentials(self.directory / f"{user.id}.creds", jwt, seed.read_bytes().strip())

    def _write_system(self) -> None:
        key = self._key(f"{_SYSTEM_USER}.nk", USER)
        claims = {"type": "user", **permission_claims(
            {"publish": {"allow": ["$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP"]},
             "subscribe": {"allow": [f"{SYSTEM_INBOX}.>"]}}
        )}  # fmt: skip
        jwt = make_jwt(self.account_key(SYSTEM), key.public, claims, name=_SYSTEM_USER)
        _keep_credentials(self.system_credentials, jwt, key.seed)

    def forget(self, user: User) -> None:
        """Remove the files of a removed user."""
        for path in (
            self.directory / f"{user.id}.creds",
            self.directory / f"{user.id}.jwt",
            self._folder / _SIGNERS / f"{user.id}.nk",
        ):
            path.unlink(missing_ok=True)

    def server_settings(self, jwts: Mapping[str, str]) -> dict[str, Any]:
        """Return what nats-server needs to trust the operator."""
        operator = self._key(f"{_OPERATOR}.nk", OPERATOR)
        system = self.account_key(SYSTEM).public
        claims = {"type": "operator", "system_account": system}
        jwt = make_jwt(operator, operator.public, claims, name="natterjack")
        return {
            "operator": _kept(self._folder / f"{_OPERATOR}.jwt", jwt),
            "system_account": system,
            "resolver_preload": dict(jwts),
        }

    def invite(self, invited: Key, expires: float) -> str:
        """Return the JWT of an invitation's user."""
        claims = invited_claims(invited.public)
        account = self.account_key(ENROLLMENT)
        return make_jwt(account, invited.public, claims, name="invited", expires=expires)


def _kept(path: Path, jwt: str) -> str:
    """Return the JWT that a file has if it says the same, else write `jwt`."""
    try:
        known = path.read_text().strip()
    except FileNotFoundError:
        known = ""
    if same_claims(known, jwt):
        return known
    replace_text(path, jwt + "\n", mode=0o600)
    return jwt


def _keep_credentials(path: Path, jwt: str, seed: bytes) -> None:
    """Write a credentials file, unless it says the same already. A damaged one is replaced."""
    try:
        known, known_seed, _ = read_creds(path.read_bytes())
    except (FileNotFoundError, ValueError):
        known, known_seed = "", b""
    if known_seed != seed or not same_claims(known, jwt):
        replace_text(path, credentials(jwt, seed), mode=0o600)
