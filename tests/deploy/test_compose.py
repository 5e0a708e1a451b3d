"""compose.yaml: its content, its certificates, and the running stack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import __main__ as gateway_program
from natterjack.broker.connection import connected
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.errors import BrokerUnreachable
from natterjack.local.embedded import find_binary
from natterjack.settings import BrokerSettings
from tests.nats_server import NatsServer
from worker.__main__ import _END_SECONDS
from worker.settings import WorkerSettings

from ..ports import free_port
from ..waiting import bound, until
from ..worker.programs import Speaker, closed, spoken
from .containers import BASE, Podman, alone, images
from .libyaml import parse_yaml, read_yaml
from .names import ROOT
from .prometheus import program

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = read_yaml(COMPOSE)["services"]
PRIVATE = ("./secrets/", "./data/")
"""Private directories, which are not in the repository."""


def tool(name: str) -> str:
    """Find a program of the extra `dev`; skip the test if it is missing."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is missing; install the extra `dev`")
    return found


def _check(*command: str | Path) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=bound(60)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- the file -------------------------------------------------------------------------------


@pytest.mark.process
def test_the_file_matches_the_compose_schema() -> None:
    _check(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


@pytest.mark.process
def test_compose_lint_finds_nothing() -> None:
    config = DEPLOY / ".compose-lint.yml"
    _check(
        tool("compose-lint"), "--no-env", "--fail-on", "low", "--strict-config", "--config", config,
        COMPOSE,
    )  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].startswith("${NATTERJACK_USER:?")
    assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}
    assert "healthcheck" in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    registry = re.match(r"[\w.-]+[.:][\w.:-]*/", service["image"])
    assert registry is None, "an image's name has no registry"


def test_the_file_contains_no_secret() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"KEY|PASSWORD|TOKEN|SECRET|SEED|CREDS", name):
                assert re.fullmatch(r"/run/secrets/[\w/-]+", value), (
                    f"{name} is not the path of a secret"
                )


@pytest.mark.process
def test_mounted_files_are_in_the_repository_or_ignored_by_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of the sources is not a git repository")
    mounted = [v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])]
    secrets = read_yaml(COMPOSE)["secrets"]
    assert all(secret["file"].startswith("./secrets/") for secret in secrets.values())
    for path in mounted:
        if path.startswith(PRIVATE):
            ignored = subprocess.run(
                ["git", "check-ignore", "--quiet", DEPLOY / path / "x"], cwd=ROOT, check=False
            )
            assert ignored.returncode == 0, f"git does not ignore {path}"
        else:
            assert (DEPLOY / path).exists(), path


def test_the_image_has_the_version_of_the_project() -> None:
    for name in ("streams", "worker", "gateway"):
        assert f":-{version('natterjack')}}}" in SERVICES[name]["image"]


def test_workers_have_time_to_drain() -> None:
    worker = SERVICES["worker"]
    grace = float(worker["stop_grace_period"].removesuffix("s"))
    drain = float(worker["environment"]["WORKER_DRAIN_SECONDS"])
    assert grace > drain + WorkerSettings().handover_seconds + _END_SECONDS


def test_a_gateway_has_time_to_drain() -> None:
    gateway = SERVICES["gateway"]
    grace = float(gateway["stop_grace_period"].removesuffix("s"))
    drain = float(gateway["environment"]["GATEWAY_DRAIN_SECONDS"])
    assert grace > drain + gateway_program._END_SECONDS


@pytest.mark.process
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    path = tmp_path / "prometheus.yml"
    path.write_text(text.replace("/etc/prometheus/natterjack", str(DEPLOY / "prometheus")))
    assert "SUCCESS" in _check(program("promtool"), "check", "config", path)


def test_grafana_has_the_data_source_of_the_dashboard() -> None:
    (source,) = parse_yaml(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    interval = read_yaml(DEPLOY / "prometheus/prometheus.yml")["global"]
    assert source["jsonData"]["timeInterval"] == interval["scrape_interval"]
    (provider,) = parse_yaml(
        (DEPLOY / "grafana/provisioning/dashboards/natterjack.yml").read_text()
    )["providers"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/natterjack.json" in mounted


# ---- certificates ---------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path, processes: None) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing")
    _check(DEPLOY / "tls.sh", "--dir", tmp_path / "tls", "nats.example.org", "192.0.2.7", "::1")
    return tmp_path / "tls"


def test_the_certificate_is_valid_for_its_names(tls: Path) -> None:
    output = _check("openssl", "x509", "-in", tls / "server.pem", "-noout", "-text")
    for name in ("DNS:nats", "DNS:localhost", "IP Address:127.0.0.1", "DNS:nats.example.org",
                 "IP Address:192.0.2.7", "IP Address:0:0:0:0:0:0:0:1"):  # fmt: skip
        assert name in output
    for purpose in (
        "sslserver",
        "sslclient",
    ):  # servers of a cluster are also clients of one another
        _check("openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", tls / "ca.pem",
               tls / "server.pem")  # fmt: skip
    modes = {path.name: path.stat().st_mode & 0o777 for path in tls.iterdir()}
    assert modes == {
        "ca.pem": 0o644, "ca-key.pem": 0o600, "server.pem": 0o644, "server-key.pem": 0o600
    }  # fmt: skip


def test_a_renewal_keeps_the_authority(tls: Path) -> None:
    before = {path.name: path.read_bytes() for path in tls.iterdir()}
    inode = (tls / "server.pem").stat().st_ino
    _check(DEPLOY / "tls.sh", "--dir", tls)
    after = {path.name: path.read_bytes() for path in tls.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {
        "server.pem",
        "server-key.pem",
    }
    assert (tls / "server.pem").stat().st_ino == inode, (
        "containers mount the file itself, so it must keep its inode"
    )
    _check("openssl", "verify", "-CAfile", tls / "ca.pem", tls / "server.pem")


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["bad name"], ["--help"], ["--dir"], ["a,DNS:evil"]])
def test_invalid_arguments_create_nothing(tmp_path: Path, arguments: list[str]) -> None:
    script = tmp_path / "tls.sh"
    shutil.copy(DEPLOY / "tls.sh", script)
    done = subprocess.run([script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tls.sh"]


def test_an_authority_without_its_key_is_not_replaced(tls: Path) -> None:
    authority = (tls / "ca.pem").read_bytes()
    (tls / "ca-key.pem").unlink()
    done = subprocess.run(
        [DEPLOY / "tls.sh", "--dir", tls], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ca-key.pem" in done.stderr
    assert (tls / "ca.pem").read_bytes() == authority


async def test_a_server_and_a_client_connect_with_it(tls: Path, tmp_path: Path) -> None:
    server = NatsServer(
        tmp_path / "nats",
        extra_arguments=(
            "--tls", "--tlscert", str(tls / "server.pem"), "--tlskey", str(tls / "server-key.pem")
        ),
    )  # fmt: skip
    server.start()
    try:
        url = f"tls://localhost:{server.port}"
        async with connected(BrokerSettings(url=url, ca=tls / "ca.pem"), name="t", once=True) as b:
            assert b.connected
        _check(DEPLOY / "tls.sh", "--dir", tmp_path / "other")
        with pytest.raises(BrokerUnreachable, match="certificate"):
            async with connected(
                BrokerSettings(url=url, ca=tmp_path / "other" / "ca.pem"), name="t", once=True
            ):
                pass
    finally:
        server.stop()


# ---- the running stack ----------------------------------------------------------------------

USER = 10001
"""A user that is neither root nor the one that runs the test."""


class Stack:
    """A copy of deploy/ with its own secrets, run by podman-compose."""

    def __init__(self, containers: Podman, deploy: Path, ports: dict[int, int]) -> None:
        """Prepare the copy; `ports` are the published ports of the containers."""
        self.deploy = deploy
        self._ports = ports
        self.project = f"natterjack-test-{os.getpid()}"
        self._containers = containers
        self._compose = (
            tool("podman-compose"), "-p", self.project, "-f", deploy / "compose.yaml",
            "--profile", "gateway",
        )  # fmt: skip

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._containers.run(*self._compose, *arguments, check=check, seconds=120)

    def podman(self, *arguments: str) -> str:
        return self._containers.run("podman", *arguments, seconds=90).stdout

    def write_provider(self, **settings: str) -> None:
        """Directory of provider keys, which workers reload."""
        directory = self.deploy / "secrets" / "providers"
        directory.mkdir(exist_ok=True)
        for name, value in settings.items():
            (directory / name).write_text(f"{value}\n")

    def hand_over_files(self) -> None:
        """Change the owner to the user that all services run as."""
        for path in [self.deploy, *self.deploy.rglob("*")]:
            os.chown(path, USER, USER)

    async def start(self, service: str) -> None:
        """Start a service and wait until it is healthy or has completed.

        Services that it depends on must be running, because podman-compose does not wait for them.
        """
        await asyncio.to_thread(self.compose, "up", "--detach", "--no-deps", "--no-build", service)
        names = self.names(service)
        assert names
        try:
            await until(lambda: all(map(self._is_well, names)), f"{service} is well", 60)
        except AssertionError as error:
            logs = [self._containers.run("podman", "logs", n, check=False) for n in names]
            raise AssertionError(f"{error}: {[(x.stdout, x.stderr) for x in logs]}") from None

    def _is_well(self, name: str) -> bool:
        about = self.state(name)
        if about["State"]["Status"] == "exited":
            return bool(about["State"]["ExitCode"] == 0)
        if not about["Config"].get("Healthcheck"):
            return False  # it is expected to exit
        checked = self._containers.run("podman", "healthcheck", "run", name, check=False)
        return checked.returncode == 0

    def names(self, service: str) -> list[str]:
        """Return the containers of a service, exited ones included."""
        output = self.podman(
            "ps", "--all", "--format", "{{.Names}}",
            "--filter", f"label=io.podman.compose.project={self.project}",
            "--filter", f"label=com.docker.compose.service={service}",
        )  # fmt: skip
        return sorted(output.split())

    def state(self, name: str) -> dict[str, Any]:
        (about,) = json.loads(self.podman("inspect", name))
        assert isinstance(about, dict)
        return about

    def broker(self, user: str) -> BrokerSettings:
        """Return the settings with which `user` connects to NATS from this machine."""
        secrets = self.deploy / "secrets"
        return BrokerSettings(
            url=f"tls://localhost:{self._ports[4222]}",
            ca=secrets / "tls" / "ca.pem",
            nkey=secrets / f"{user}.nk",
            inbox_prefix=f"_INBOX_{user}",
        )

    async def ask_prometheus(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._ports[9090]}/api/v1/{path}"
        async with aiohttp.ClientSession() as http, http.get(url, params=parameters) as answer:
            return (await answer.json())["data"]

    def down(self) -> None:
        self.compose("down", "--timeout", "0", "--volumes", check=False)


STAND_INS = {
    "nats:2.12-alpine": ("nats-server", "/usr/local/bin/nats-server"),
    "prom/prometheus:v3.5.0": ("prometheus", "/bin/prometheus"),
}
"""Third-party images of compose.yaml, and the program that each runs."""


def _make_stand_in(containers: Podman, image: str, found: Path, path: str, work: Path) -> None:
    """Build an image with the program alone and the wget that health checks use: that of busybox,
    as in the images of Alpine and of Prometheus."""
    work.mkdir()
    shutil.copy(found, work / "program")
    (work / "Dockerfile").write_text(
        f"FROM {BASE}\n"
        "RUN dpkg -i /opt/busybox_*.deb && ln -s busybox /usr/bin/wget\n"
        f"COPY --chmod=755 program {path}\n"
        f'ENTRYPOINT ["{path}"]\n'
    )
    with alone("images"):
        containers.build("-t", image, work)


def _natterjack(*arguments: str | Path) -> str:
    return _check(sys.executable, "-m", "natterjack", *arguments)


@pytest.fixture
def stack(tmp_path: Path, processes: None) -> Iterator[Stack]:
    """A stack that is not started yet, on free ports."""
    tool("podman-compose")
    containers = images()
    for image, (name, path) in STAND_INS.items():
        found = find_binary() if name == "nats-server" else Path(program(name))
        _make_stand_in(containers, image, found, path, tmp_path / name)
    deploy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, deploy, ignore=shutil.ignore_patterns("secrets", "data", ".env"))
    for name in ("nats", "prometheus"):
        (deploy / "data" / name).mkdir(parents=True)
    text = (deploy / "compose.yaml").read_text()
    ports = {port: free_port() for port in (4222, 8080, 8443, 9090)}
    for port, free in ports.items():
        text = text.replace(f"127.0.0.1:{port}:", f"127.0.0.1:{free}:")
    # Tests may not be allowed to raise limits; containers.py sets the permitted ones.
    text = re.sub(r"^    ulimits:\n      .*\n", "", text, flags=re.M)
    (deploy / "compose.yaml").write_text(text)
    scraping = deploy / "prometheus" / "prometheus.yml"
    scraping.write_text(scraping.read_text().replace("15s", "1s").replace("10s", "1s"))
    (deploy / ".env").write_text(f"NATTERJACK_USER={USER}:{USER}\nWORKER_PROVIDER=deepgram\n")
    secrets = deploy / "secrets"
    for role in (["operator"], ["worker"], ["gateway"], ["edge", "--tenant", "t", "--name", "e"]):
        _natterjack("users", "add", "--dir", secrets, *role)
    (secrets / "gateway").mkdir(mode=0o700)
    _natterjack("keys", "add", "--file", secrets / "gateway" / "keys", "--tenant", "t")
    (secrets / "gateway" / "token-secret").write_text("0123456789abcdef" * 4)
    _check(deploy / "tls.sh")
    (secrets / "grafana-admin").write_text("not used")
    stack = Stack(containers, deploy, ports)
    yield stack
    stack.down()


@contextlib.asynccontextmanager
async def _reachable(emulator: DeepgramEmulator) -> AsyncIterator[int]:
    """Forward a port on all addresses of this machine to the emulator, for containers."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", emulator.port)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = await asyncio.start_server(connect, "0.0.0.0", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_stack_runs(stack: Stack, emulator: DeepgramEmulator) -> None:
    """Start the services, stop a worker in the middle of a session, and check metrics."""
    async with _reachable(emulator) as port:
        stack.write_provider(
            DEEPGRAM_API_KEY="a-test-key",
            DEEPGRAM_URL=f"ws://host.containers.internal:{port}",
            DEEPGRAM_CATCH_UP_RATE="8",
        )
        stack.hand_over_files()
        await stack.start("nats")
        await stack.start("streams")
        await stack.start("worker")
        await stack.start("gateway")  # healthy: connected to NATS as its own user
        await stack.start("prometheus")
        workers = stack.names("worker")
        await _found_by_prometheus(stack, 2)
        _check_confined(stack)

        speaker = Speaker(stack.broker("edge_t_e"), 60, speed=2)
        async with connected(stack.broker("operator"), name="test", once=True) as broker:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(speaker.speak())
                await spoken(speaker, 6)
                holder = await _holder(stack, workers)
                await asyncio.to_thread(stack.podman, "stop", holder)  # as Compose stops it
                assert stack.state(holder)["State"]["ExitCode"] == 0
            transcript = await closed(broker, speaker.spec, 60)
        transcript.audit(speaker)
        assert "handed_over" in transcript.states
        await _found_by_prometheus(stack, 1)
        groups = (await stack.ask_prometheus("rules"))["groups"]
        assert {Path(group["file"]).name for group in groups} == {"recording.yml", "alerts.yml"}


async def _found_by_prometheus(stack: Stack, workers: int) -> None:
    async def look() -> bool:
        found = (await stack.ask_prometheus("query", query="natterjack_build_info"))["result"]
        return len(found) == workers

    await until(look, f"Prometheus has found {workers} by their name", 90)


async def _holder(stack: Stack, workers: list[str]) -> str:
    """Return the container that holds the session."""
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/sessions').read())"

    async def look() -> str | None:
        for name in workers:
            output = await asyncio.to_thread(stack.podman, "exec", name, "python", "-c", code)
            if "session_id" in output:
                return name
        return None

    found = await until(look, "a worker has the session", 30)
    assert isinstance(found, str)
    return found


def _check_confined(stack: Stack) -> None:
    for name in (
        n for service in ("nats", "worker", "gateway", "prometheus") for n in stack.names(service)
    ):
        about = stack.state(name)
        status = Path(f"/proc/{about['State']['Pid']}/status").read_text()
        found = dict(re.findall(r"^(\w+):\s*(.*)$", status, flags=re.M))
        assert set(found["Uid"].split()) == {str(USER)}, name
        assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0, name
        assert found["NoNewPrivs"] == "1", name
        assert about["HostConfig"]["ReadonlyRootfs"], name
