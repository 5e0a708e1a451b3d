"""A complete stack on one machine for the demo and for development: broker, workers, edge.

The parts are the real programs in processes of their own, and they meet only on NATS.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from natterjack.errors import NatterjackError, UsageError
from natterjack.process.signals import receiving, stop_signals
from natterjack.process.terminal import unread
from natterjack.settings import KINDS

from . import program
from .embedded import EmbeddedServer
from .keeper import ORPHANED_SECONDS
from .lock import locked
from .page import address
from .parts import Part, PartFailed, Parts
from .ports import CONNECTION, HOST, port_owner
from .progress import step

log = logging.getLogger(__name__)

ANY_PORT = -1
EMBEDDED_VOICE = "hibari"
"""The voice of `natterjack[local]`, and its package."""
_BROKER_TIMEOUT_S = 15
_PORT_S, _PORT_CHECK_S = 5.0, 0.1
"""How long a connection that has the broker's port is waited for, and how often it is looked at."""
_BROKER_RANK, _WORKER_RANK, _EDGE_RANK = range(3)


def part_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a part gets: all but those of another broker, and of a spool.

    The spool's audio belongs to the broker for which it was recorded.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(("NATS_", "EDGE_SPOOL"))
    }


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a worker of the stack: the embedded voice, if it is installed and the user
    has not set another one."""
    voice = {"WORKER_VOICE": EMBEDDED_VOICE} if importlib.util.find_spec(EMBEDDED_VOICE) else {}
    return {**voice, **environment}


def edge_environment(environment: Mapping[str, str], *, reports: bool) -> dict[str, str]:
    """The variables of an edge, with or without reports to the center."""
    return dict(environment) if reports else {**environment, "EDGE_PRESENCE_SECONDS": "0"}


class Stack:
    """A broker and workers. Use it as an async context manager, and call `start` inside.

    At the end, no part is left, nor is the directory if it is temporary and nothing failed.
    """

    def __init__(
        self,
        command: str,
        directory: Path | None,
        *,
        workers: int = 1,
        provider: str | None = None,
        port: int = ANY_PORT,
        speaks: bool = False,
        source: int | None = None,
        defaults: Mapping[str, str] | None = None,
        installation: Mapping[str, str] | None = None,
        announces: bool = True,
        gateway: Mapping[str, str] | None = None,
    ) -> None:
        """`directory` is for logs and the broker's data; None makes a temporary one.

        `command` is the subcommand that runs the stack. `speaks`: its workers serve both kinds of
        session, whatever WORKER_KINDS says. `source` is a descriptor that an edge can get as its
        standard input. `defaults` are variables of the workers, which those of the user override.
        `installation` has the variables of a broker that is there: the stack has only edges, then.
        `announces`: it prints what it starts. `gateway` has the variables of a gateway; without
        them there is none.
        """
        self.workers: list[Part] = []
        self.http_urls: list[str] = []
        self.page: str | None = None
        """Address of the gateway's page, once it is ready."""
        self.on_interrupt: Callable[[], None] | None = None
        """Called on the first Ctrl-C, in place of ending the stack."""
        self.ending = False
        self._command = command
        self._directory = directory
        self._source = source
        self._count = workers
        self._port = port or ANY_PORT
        self._wanted = {"WORKER_PROVIDER": provider} if provider else {}
        self._wanted |= {"WORKER_KINDS": ",".join(KINDS)} if speaks else {}
        self._environment = part_environment(os.environ)
        self._defaults = defaults or {}
        self._installation = installation
        self.announces = announces
        self._gateway_variables = gateway
        self.gateway: Part | None = None
        self._parts: Parts | None = None
        self._edges: list[Part] = []
        self._exit = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Stack:
        """Raises UsageError if the port is taken, or the directory is in use or not writable."""
        await self._wait_for_port()
        prefix = f"natterjack-{self._command}-"
        try:
            self.directory = self._directory or Path(tempfile.mkdtemp(prefix=prefix))
        except OSError as error:
            raise UsageError(f"{error}: name a directory with --store") from None
        name = f"{prefix}{os.getpid()}"
        self.server = EmbeddedServer(self.directory / "nats", extra_arguments=("-n", name))
        self.server.port = self._port
        try:
            with self._writing():
                await self._enter()
        except BaseException:  # including cancellation
            if self._directory is None:
                shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    async def _wait_for_port(self) -> None:
        """Return once the broker can listen on its port. Raises: UsageError if it cannot."""
        if self._port == ANY_PORT:
            return
        deadline = time.monotonic() + _PORT_S
        while (owner := port_owner(self._port)) is not None:
            if owner != CONNECTION or time.monotonic() > deadline:
                raise UsageError(self._taken(owner))
            await asyncio.sleep(_PORT_CHECK_S)

    async def _enter(self) -> None:
        """Lock the directory and start the keeper."""
        async with contextlib.AsyncExitStack() as entered:
            lock = entered.enter_context(locked(self.directory))
            inherited = [*lock, *([] if self._source is None else [self._source])]
            parts = Parts(self.directory / "keeper.log", inherited=inherited)
            self._parts = await entered.enter_async_context(parts)
            if self._directory is None:
                parts.remove_at_end(self.directory)
            self._exit = entered.pop_all()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise UsageError if a file of the stack cannot be written in the block."""
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"{error.filename or self.directory}: {error.strerror}; choose another directory "
                "with --store"
            ) from None

    async def __aexit__(self, *_: object) -> None:
        self.ending = True
        await self._exit.aclose()

    async def start(self) -> None:
        """Start the broker and the workers, and return when the workers are ready.

        Raises: PartFailed if one does not start; UsageError for wrong settings or a taken port.
        """
        if self._installation is not None:
            self._environment |= {**self._installation, "NATTERJACK_LOG_FORMAT": "json"}
            return
        with self._writing():
            self.server.prepare()
        self._broker = await self._start(
            "broker", self.server.command(), self._environment, self.server.log_path, _BROKER_RANK
        )
        async with step("the broker", shown=self.announces):
            await self._wait_for_broker(self._broker)
        self._environment |= {"NATS_URL": self.server.url, "NATTERJACK_LOG_FORMAT": "json"}
        for number in range(1, self._count + 1):
            self.workers.append(
                await self._start(
                    f"worker {number}",
                    program.command("natterjack-worker"),
                    {
                        **self._defaults,
                        **worker_environment(self._environment),
                        **self._wanted,
                        "WORKER_HTTP_PORT": "0",
                    },
                    self.directory / f"worker-{number}.log",
                    _WORKER_RANK,
                )
            )
        if self._gateway_variables is not None:
            self.gateway = await self._start(
                "gateway",
                program.command("natterjack-gateway"),
                {**self._environment, **self._gateway_variables},
                self.directory / "gateway.log",
                _EDGE_RANK,
            )
        for worker in self.workers:
            async with step(worker.name, worker.doing, shown=self.announces):
                self.http_urls.append(str((await worker.logged("worker ready"))["http"]))
        if self.gateway is not None:
            async with step("the gateway", self.gateway.doing, shown=self.announces):
                self.page = address(str((await self.gateway.logged("gateway ready"))["http"]))

    async def _wait_for_broker(self, broker: Part) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BROKER_TIMEOUT_S):
                while not self.server.ready():
                    if not broker.running:
                        if "address already in use" in broker.tail():  # since the check above
                            owner = port_owner(self._port) or "another program"
                            raise UsageError(self._taken(owner))
                        raise await broker.failure()
                    await asyncio.sleep(0.02)
        if not self.server.ready():
            raise PartFailed(f"the broker is not ready after 15 s: {broker.tail()}")

    def _taken(self, owner: str) -> str:
        return (
            f"port {self._port} of {HOST} is taken by {owner}. Stop it, or choose another port "
            "with --port (-1: any free one), which other commands then need in NATS_URL"
        )

    async def edge(
        self, name: str, arguments: Sequence[str], *, piped: bool = False, reports: bool = False
    ) -> Part:
        """Start an edge with a name of its own. `piped`: its standard input is the descriptor
        `source`, which can be used once. `reports`: to the center, as one edge at a time may."""
        command = [*program.command("natterjack-edge"), *arguments]
        log_path = self.directory / f"{name.replace(' ', '-')}.log"
        source = self._source if piped else None
        environment = edge_environment(self._environment, reports=reports)
        edge = await self._start(name, command, environment, log_path, _EDGE_RANK, source)
        self._edges.append(edge)
        return edge

    async def _start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        log_path: Path,
        rank: int,
        source: int | None = None,
    ) -> Part:
        """Start a part. Raises: PartFailed; UsageError if its log cannot be written."""
        assert self._parts is not None
        with self._writing():
            return await self._parts.start(
                name,
                command,
                environment=environment,
                log_path=log_path,
                rank=rank,
                source=source,
            )

    async def failure(self) -> PartFailed:
        """Wait until the broker, a worker or the gateway has ended, and describe that as an
        error."""
        assert self._parts is not None
        if self._installation is not None:
            await asyncio.Event().wait()  # there are only edges
        parts = [self._broker, *self.workers, *([self.gateway] if self.gateway else [])]
        waiting = {asyncio.ensure_future(part.wait()): part for part in parts}
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        failure = PartFailed(str(await waiting[done.pop()].failure()))
        self.keep()
        self._parts.stop(ORPHANED_SECONDS)  # without the others, a part may wait for long
        return failure

    def suspend(self) -> None:
        """Stop this process, as Ctrl-Z does, and the edges, which must not record meanwhile."""
        for edge in self._edges:
            edge.signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        for edge in self._edges:
            edge.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill all parts at once, if there are any yet."""
        if self._parts is not None:
            self._parts.stop(0)

    def keep(self) -> str:
        """Keep the directory although it is temporary, and return a sentence that says so."""
        assert self._parts is not None
        self._parts.remove_at_end(None)
        kept = "are in" if self._directory else "are kept in"
        return f"Logs and the broker's data {kept} {self.directory}"

    def discard(self) -> None:
        """Remove the directory at the end."""
        assert self._parts is not None
        self._parts.remove_at_end(self.directory)

    def announce(self) -> None:
        """Print what is being started, and where it keeps its files."""
        count = "a worker" if self._count == 1 else f"{self._count} workers"
        until = "" if self._directory else " until it ends"
        what = f"a broker and {count}"
        if self._gateway_variables is not None:
            what = f"a broker, {count} and a gateway"
        say(f"natterjack {self._command}: starting {what} ...")
        say(f"logs and data are in {self.directory}{until}")


def say(text: str) -> None:
    """Print to standard output, or not if nobody reads it any more."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


async def run_stack(stack: Stack, work: Callable[[Stack], Awaitable[int]]) -> int:
    """Start the stack, do `work` with it, and return the exit status.

    Ctrl-C, SIGTERM and SIGHUP cancel the work and end the stack, with 128 and the signal's number
    unless the work returns another status. A second Ctrl-C or SIGTERM kills the stack.

    Raises: PartFailed, UsageError.
    """
    received: list[int] = []
    killed: list[int] = []
    stopping = stop_signals()
    working = asyncio.ensure_future(_work(stack, work))

    def receive(number: int) -> None:
        if number not in stopping:
            stack.suspend()
            return
        # The kernel and the shell may both send SIGHUP, so it never insists.
        insists = bool(received) and number in (signal.SIGINT, signal.SIGTERM)
        received.append(number)
        if number == signal.SIGINT and not insists and stack.on_interrupt is not None:
            stack.on_interrupt()
            return
        if insists:
            killed.append(number)
            stack.kill()
        if not stack.ending:
            stack.ending = True
            working.cancel()

    with receiving((*stopping, *_suspend_signals()), receive):
        try:
            status = await working
        except (asyncio.CancelledError, OSError) as error:
            # A closed terminal fails what writes to it, and sends SIGHUP.
            if not received or (isinstance(error, OSError) and not unread(error)):
                raise
            status = 128 + received[-1]
    return 128 + killed[0] if killed else status


def _suspend_signals() -> tuple[int, ...]:
    """SIGTSTP, unless Ctrl-Z is ignored or does not exist."""
    number = getattr(signal, "SIGTSTP", None)
    return () if number is None or signal.getsignal(number) is signal.SIG_IGN else (number,)


async def _work(stack: Stack, work: Callable[[Stack], Awaitable[int]]) -> int:
    async with stack:
        if stack.announces:
            stack.announce()
        try:
            await stack.start()
            return await work(stack)
        except UsageError:
            raise
        except NatterjackError as error:
            raise PartFailed(f"{error}\n{stack.keep()}") from error
        except Exception as error:  # raised again: only says where the logs are
            if not (isinstance(error, OSError) and unread(error)):
                say(stack.keep())  # a mistake of ours, which the logs may explain
            raise
