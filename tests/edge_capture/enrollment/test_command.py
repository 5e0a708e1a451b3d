"""Commands use the identity of an enrolled machine, or enroll the machine."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest

from edge_capture.enrollment import command
from edge_capture.enrollment.command import apply, kept
from edge_capture.enrollment.identity import Enrollment, Identity
from edge_capture.enrollment.machine import read_machine
from edge_capture.errors import EnrollmentRefused
from edge_capture.parser import make_parser
from natterjack.broker.login.jwt import ACCOUNT, credentials, make_jwt, make_key
from natterjack.enrollment.token import Token
from natterjack.errors import UsageError
from tests.waiting import until


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("NATS_CREDS", "NATS_NKEY", "NATS_USER", "EDGE_TOKEN", "EDGE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    key, directory = make_key(), tmp_path / "identity"
    directory.mkdir()
    Identity(directory).write(
        Enrollment(
            url="tls://token:4222",
            tenant="acme",
            agent="pi-7",
            public_key=key.public,
            machine=read_machine(),
        ),
        "jwt",
        key,
        "a certificate",
    )
    return directory


def applied(identity: Path, config: Path, **given: str) -> dict[str, str]:
    arguments = ["run", "--config", str(config), "--identity", str(identity)]
    return apply(make_parser().parse_args(arguments), given)


def test_what_a_file_says_of_the_connection_precedes_what_the_token_said(
    identity: Path, tmp_path: Path
) -> None:
    config = tmp_path / "edge.toml"
    assert applied(identity, config)["NATS_URL"] == "tls://token:4222"  # there is no such file
    config.write_text('[nats]\nurl = "wss://file"\n')
    found = applied(identity, config)
    assert "NATS_URL" not in found
    assert found["NATS_CREDS"] == str(identity / "edge.creds")
    assert found["NATS_CA"] == str(identity / "ca.pem")


def test_a_file_that_names_another_user_does_not_use_the_identity(
    identity: Path, tmp_path: Path
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('[nats]\nnkey = "/etc/natterjack/edge.nk"\n')
    assert applied(identity, config) == {}


def test_names_that_the_credentials_do_not_permit_are_not_used_and_said(
    identity: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('agent = "room-12"\ntenant = "acme"\n')
    with caplog.at_level(logging.WARNING):
        assert applied(identity, config)["EDGE_AGENT"] == "pi-7"
    (line,) = caplog.messages
    assert "agent = 'room-12'" in line
    assert "enrolled as agent pi-7 of tenant acme" in line
    caplog.clear()
    assert "EDGE_AGENT" not in applied(identity, config, EDGE_AGENT="room-12")
    assert caplog.messages == []


@pytest.mark.parametrize("content", [None, "\n", "SUA"])
def test_a_key_that_is_missing_or_empty_leaves_the_identity_in_use(
    identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """A unit names the file of a key, which an enrolled machine lacks."""
    key, config = tmp_path / "edge.nk", tmp_path / "edge.toml"
    if content is not None:
        key.write_text(content)
    monkeypatch.setenv("NATS_NKEY", str(key))
    found = applied(identity, config, NATS_NKEY=str(key))
    if content and content.strip():
        assert found == {}
        return
    assert found["NATS_CREDS"] == str(identity / "edge.creds")
    assert found["NATS_NKEY"] == "", "which unsets it"
    monkeypatch.setenv("NATS_CREDS", "/etc/natterjack/other.creds")
    assert applied(identity, config, NATS_NKEY=str(key)) == {}


def test_a_machine_without_key_and_identity_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NATS_CREDS", "NATS_USER", "EDGE_TOKEN", "EDGE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NATS_NKEY", str(tmp_path / "edge.nk"))
    with pytest.raises(UsageError, match=r"edge\.nk is missing or empty.*natterjack-edge enroll"):
        applied(tmp_path / "identity", tmp_path / "edge.toml", NATS_NKEY=str(tmp_path / "edge.nk"))


def a_token(expires: int | None) -> str:
    key, account = make_key(), make_key(ACCOUNT)
    jwt = make_jwt(account, key.public, {"type": "user"}, name="invited", expires=expires)
    return Token("nats://127.0.0.1:1", jwt, key.seed.decode()).encode()


@pytest.mark.parametrize("line", [("check",), ("run", "--config", "none", "--check-config")])
def test_a_command_that_only_examines_does_not_enroll(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would also wait for a registrar that is away."""
    for name in ("NATS_CREDS", "NATS_NKEY", "NATS_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDGE_IDENTITY", str(tmp_path / "identity"))
    monkeypatch.setenv("EDGE_TOKEN", a_token(expires=1))
    assert apply(make_parser().parse_args(line), {}) == {}
    assert not (tmp_path / "identity").exists()
    with pytest.raises(EnrollmentRefused, match="expired"):
        apply(make_parser().parse_args(["mic"]), {})


async def test_a_running_edge_goes_on_to_enroll_after_a_fault_of_its_machine(
    identity: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The directory of temporary files is missing, as one that is full would be."""
    monkeypatch.setattr(command, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(command, "_LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    key = make_key()
    jwt = make_jwt(make_key(ACCOUNT), key.public, {"type": "user"}, name="pi-7", expires=1)
    (identity / "edge.creds").write_text(credentials(jwt, key.seed))
    monkeypatch.setenv("EDGE_TOKEN", a_token(expires=None))

    async def works() -> int:
        await until(lambda: "No such file" in caplog.text, "the fault is said")
        (tmp_path / "missing").mkdir()
        await until(lambda: "no NATS at nats://127.0.0.1:1" in caplog.text, "it is tried again")
        return 7

    flags = make_parser().parse_args(["mic", "--identity", str(identity)])
    assert await kept(works(), flags) == 7
