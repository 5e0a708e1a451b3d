"""Claims of the JWTs of accounts and users. They are made from the configuration of nats-server
that `natterjack users` writes, and say the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from natterjack.broker.roles import User
from natterjack.enrollment.records import CAPTIONS_TAG
from natterjack.enrollment.token import inbox_of
from natterjack.subjects import ENROLL_PREFIX, RENEW_PREFIX, TRANSCRIPT_PREFIX

from ..users_config import MAIN, accounts, edge_account

SYSTEM, ENROLLMENT, EDGE_PREFIX = "SYS", "ENROLL", "EDGE_"
FOREVER = 4_102_444_800
"""The year 2100: a revoked key is refused whenever its JWT was issued."""
_NAME, _ENROLLED = "name-of-the-agent", "{{name()}}"
_CAPTIONS = f"{{{{tag({CAPTIONS_TAG})}}}}"
_UNLIMITED = dict.fromkeys(
    ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1
)  # fmt: skip
_STORAGE = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
_INVITED_CONNECTIONS, _INVITED_SUBSCRIPTIONS = 1024, 8
_INVITED_PAYLOAD = 8192
_CLOCKS_S = 86_400
_UNIT_NS = {"m": 60_000_000_000, "s": 1_000_000_000}


def sections(
    users: Sequence[User], tenants: Iterable[str], connections: int, captions: Iterable[str] = ()
) -> dict[str, Any]:
    """The `accounts` of nats-server's configuration, with those of `tenants` and what enrollment
    needs. Those of `captions` have edges that show captions."""
    found = accounts(users, connections, tenants, captions)
    main = found[MAIN]
    main["exports"] = [
        *main.get("exports", ()),
        {"service": f"{ENROLL_PREFIX}.*"},
        {"service": f"{RENEW_PREFIX}.*"},
    ]
    for name, section in found.items():
        if name.startswith(EDGE_PREFIX):
            section["imports"].append(_service(f"{RENEW_PREFIX}.*"))
    found[ENROLLMENT] = {
        "limits": {
            "max_connections": _INVITED_CONNECTIONS,
            "max_subscriptions": _INVITED_SUBSCRIPTIONS,
            "max_payload": _INVITED_PAYLOAD,
        },
        "imports": [_service(f"{ENROLL_PREFIX}.*")],
    }
    return found


def _service(subject: str) -> dict[str, Any]:
    return {"service": {"account": MAIN, "subject": subject}}


def account_claims(
    section: Mapping[str, Any],
    keys: Mapping[str, str],
    scopes: Iterable[Mapping[str, Any]] = (),
    revoked: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the claims of an account. `keys` has the public key of each account, `scopes` its
    signing keys, `revoked` the users' keys that are refused.

    Exports are open to all accounts of the operator, who alone can make accounts with imports.
    """
    limits = {**_UNLIMITED, "wildcards": True}
    if (jetstream := section.get("jetstream")) is not None:
        limits |= _STORAGE
        limits |= {"streams": jetstream["max_streams"], "consumer": jetstream["max_consumers"]}
    given = section.get("limits", {})
    for field, claim in (
        ("max_connections", "conn"), ("max_subscriptions", "subs"), ("max_payload", "payload"),
    ):  # fmt: skip
        limits[claim] = given.get(field, -1)
    claims: dict[str, Any] = {
        "type": "account",
        "limits": limits,
        "exports": [_export(entry) for entry in section.get("exports", ())],
        "imports": [_import(entry, keys) for entry in section.get("imports", ())],
    }
    if signers := [dict(each) for each in scopes]:
        claims["signing_keys"] = signers
    if refused := dict.fromkeys(sorted(revoked), FOREVER):
        claims["revocations"] = refused
    return claims


def read_revoked(keys: Any) -> dict[str, float]:
    """Return the refused keys of an account, and until when each is, from what is stored: earlier
    versions stored the keys alone. Raises TypeError, ValueError, AttributeError."""
    if isinstance(keys, list):
        return dict.fromkeys(map(str, keys), float(FOREVER))
    return {str(key): float(until) for key, until in keys.items()}


def still_revoked(keys: Mapping[str, float], now: float) -> dict[str, float]:
    """Return those of `keys` that may have a JWT which has not expired. The clocks of servers may
    differ by a day."""
    return {key: until for key, until in sorted(keys.items()) if now < until + _CLOCKS_S}


def _export(entry: Mapping[str, Any]) -> dict[str, Any]:
    kind, subject = _kind(entry)
    return {"name": subject, "subject": subject, "type": kind}


def _import(entry: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    kind, source = _kind(entry)
    subject = source["subject"]
    return {"name": subject, "subject": subject, "account": keys[source["account"]], "type": kind}


def _kind(entry: Mapping[str, Any]) -> tuple[str, Any]:
    kind = "service" if "service" in entry else "stream"
    return kind, entry[kind]


def permission_claims(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JWTs say of a user with the permissions of nats-server's configuration."""
    claims: dict[str, Any] = {"pub": config["publish"], "sub": config["subscribe"]}
    if (responses := config.get("allow_responses")) is not None:
        number, unit = responses["expires"][:-1], responses["expires"][-1]
        claims["resp"] = {"max": responses["max"], "ttl": int(number) * _UNIT_NS[unit]}
    return {**claims, "subs": -1, "data": -1, "payload": -1}


def edge_template(tenant: str, *, captions: bool = False) -> dict[str, Any]:
    """Return the permissions of each edge that a registrar lets in: those of the role, and its own
    renewals. nats-server puts in the name and the key.

    With `captions`, also those of `natterjack-edge --captions`, for edges whose JWT has the tags:
    nats-server leaves out a subject for whose tag there is no value.
    """
    config = User("edge", _NAME, tenant).permissions().config()
    if captions:
        config["subscribe"]["allow"].append(f"{TRANSCRIPT_PREFIX}.{tenant}.*.*.{_CAPTIONS}")
    config["publish"]["allow"].append(f"{RENEW_PREFIX}.{{{{subject()}}}}")
    for direction in ("publish", "subscribe"):
        config[direction]["allow"] = [
            subject.replace(_NAME, _ENROLLED) for subject in config[direction]["allow"]
        ]
    return permission_claims(config)


def scope(key: str, role: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a signing key of an account, whose users have the permissions of `template`, whatever
    their JWTs say. A change of roles reaches them without new JWTs."""
    return {"kind": "user_scope", "key": key, "role": role, "template": dict(template)}


def invited_claims(public_key: str) -> dict[str, Any]:
    """Return the claims of the user in a token: it may ask the registrar, and hear the answer."""
    config = {
        "publish": {"allow": [f"{ENROLL_PREFIX}.{public_key}"]},
        "subscribe": {"allow": [f"{inbox_of(public_key)}.>"]},
    }
    return {"type": "user", **permission_claims(config)}


def account_of(user: User) -> str:
    """Return the name of the account of a user."""
    return edge_account(user.tenant or "") if user.role == "edge" else MAIN
