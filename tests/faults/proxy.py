"""A TCP proxy between NATS clients and a server that understands message boundaries, so that a test
can kill, cut or stall at exactly the n-th message of a subject."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, NamedTuple

from ..ports import free_port

_READ_BYTES = 256 * 1024
_WITH_PAYLOAD = {b"PUB", b"HPUB", b"MSG", b"HMSG"}

Receiver = Literal["server", "client"]


class Message(NamedTuple):
    """A message in transit. `headers` is the raw header block, empty if there are no headers."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes


Action = Callable[[], Awaitable[object] | object]


@dataclass
class Trigger:
    """An action to run at the n-th matching message."""

    subject: re.Pattern[str]
    action: Action | None
    n: int
    to: Receiver
    after: bool
    where: Callable[[Message], bool] | None
    seen: int = 0
    """Matching messages so far."""
    message: Message | None = None
    """The n-th matching message, once it was seen."""
    fired: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the action is done."""

    def hit(self, message: Message, to: Receiver) -> bool:
        """Count a matching message and return whether it is the n-th."""
        if to != self.to or self.seen >= self.n or not self.subject.fullmatch(message.subject):
            return False
        if self.where is not None and not self.where(message):
            return False
        self.seen += 1
        if self.seen == self.n:
            self.message = message
        return self.seen == self.n


@dataclass(eq=False)
class _Link:
    """A client's connection and the proxy's connection to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    answers: dict[str, Trigger] = field(default_factory=dict)
    """Triggers to fire at the server's reply, by reply subject."""

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.close()  # data already forwarded still arrives


class NatsProxy:
    """Listens on a free loopback port inside its `async with` block.

    A `before` trigger runs its action before the message is forwarded. An `after` trigger runs it
    when the server's reply arrives, which is not forwarded; without a reply subject, it runs right
    after forwarding. The connection is then aborted, because TCP cannot lose a single message. If
    the action stalls the proxy, the message waits like all others.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener: socket.socket | None = None
        self._bound: socket.socket | None = None
        """Reserves the port while the proxy does not listen."""
        self.port = free_port()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._triggers: list[Trigger] = []
        self._errors: list[Exception] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.accepted = 0
        """Number of connections forwarded to the server."""

    async def __aenter__(self) -> NatsProxy:
        self._listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        if self._bound is not None:
            self._bound.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if error is None and self._errors:
            raise self._errors[0]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    # ---- used by tests ----------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Number of connections that are open."""
        return len(self._links)

    def cut(self) -> None:
        """Abort every connection and refuse new ones, until `heal`."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            self._bound = self._bind()
        for link in list(self._links):
            link.abort()

    def stall(self) -> None:
        """Forward nothing until `heal`; connections stay open and new ones get no answer."""
        self._flowing.clear()

    def heal(self) -> None:
        """End `cut` and `stall`, and forward the data that was held back."""
        if self._listener is None:
            self._listen()
        self._flowing.set()

    def before(
        self,
        subject: str,
        action: Action | None = None,
        *,
        n: int = 1,
        to: Receiver = "server",
        where: Callable[[Message], bool] | None = None,
    ) -> Trigger:
        """Run `action` at the n-th message on `subject` (wildcards allowed), which is dropped."""
        return self._trigger(Trigger(_pattern(subject), action, n, to, False, where))

    def after(
        self,
        subject: str,
        action: Action | None = None,
        *,
        n: int = 1,
        to: Receiver = "server",
        where: Callable[[Message], bool] | None = None,
    ) -> Trigger:
        """Run `action` after the n-th message was delivered; its reply is dropped."""
        return self._trigger(Trigger(_pattern(subject), action, n, to, True, where))

    def _trigger(self, trigger: Trigger) -> Trigger:
        self._triggers.append(trigger)
        return trigger

    # ---- forwarding -------------------------------------------------------------------------

    def _bind(self) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(("127.0.0.1", self.port))
        return bound

    def _listen(self) -> None:
        self._listener, self._bound = self._bound or self._bind(), None
        self._listener.listen(100)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the client has gone
        task = asyncio.create_task(self._forward(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: client.close())  # a task cancelled before its start cannot

    async def _forward(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            with contextlib.suppress(OSError):  # the server may be down, or go down
                await self._serve(reader, writer)
        except Exception as error:  # noqa: BLE001 - raised by an action; the test reports it
            self._errors.append(error)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        if self._listener is None:
            return
        from_server, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        link = _Link(writer, server)
        self._links.add(link)
        self.accepted += 1
        pumps = [
            asyncio.ensure_future(self._pump(link, reader, server, "server")),
            asyncio.ensure_future(self._pump(link, from_server, writer, "client")),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            link.abort()
            await asyncio.gather(*pumps)
        finally:
            self._links.discard(link)
            link.abort()
            for pump in pumps:
                pump.cancel()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: Receiver
    ) -> None:
        buffer = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_READ_BYTES):
                buffer += data
                out = bytearray()
                for frame in _frames(buffer):
                    acted = self._acting(link, frame, to)
                    if acted is not None:
                        trigger, arrives = acted
                        await self._write(writer, out + (frame if arrives else b""))
                        out.clear()
                        if arrives and to == "server" and (reply := _message(frame).reply):
                            link.answers[reply] = trigger
                            continue
                        await self._fire(link, trigger)
                        if arrives:
                            continue
                    out += _without_addresses(frame) if frame[:5] == b"INFO " else frame
                await self._write(writer, out)

    def _acting(self, link: _Link, frame: bytes, to: Receiver) -> tuple[Trigger, bool] | None:
        """Return the trigger of this frame, and whether to forward the frame first."""
        if not (self._triggers or link.answers) or not _has_payload(frame):
            return None
        message = _message(frame)
        if to == "client" and (answered := link.answers.pop(message.subject, None)) is not None:
            return answered, False
        hits = [trigger for trigger in self._triggers if trigger.hit(message, to)]
        return (hits[0], hits[0].after) if hits else None

    async def _fire(self, link: _Link, trigger: Trigger) -> None:
        """Run the trigger's action and abort the link, unless the proxy is stalled.

        Raises ConnectionError if the connection is closed.
        """
        done = trigger.action() if trigger.action is not None else None
        if isinstance(done, Awaitable):
            await done
        if self._flowing.is_set():
            link.abort()
        trigger.fired.set()
        if link.server.is_closing():
            raise ConnectionAbortedError

    async def _write(self, writer: asyncio.StreamWriter, data: bytes | bytearray) -> None:
        await self._flowing.wait()
        if data:
            writer.write(bytes(data))
            await writer.drain()


def _pattern(subject: str) -> re.Pattern[str]:
    """Compile a subject with NATS wildcards into a regular expression."""
    tokens = {"*": "[^.]+", ">": ".+"}
    return re.compile(r"\.".join(tokens.get(t) or re.escape(t) for t in subject.split(".")))


def _frames(buffer: bytearray) -> Iterator[bytes]:
    """Remove and yield complete protocol messages from the front of `buffer`."""
    start = 0
    try:
        while (end := buffer.find(b"\r\n", start) + 2) > 1:
            words = buffer[start:end].split()
            if words and bytes(words[0]).upper() in _WITH_PAYLOAD:
                end += int(words[-1]) + 2
                if end > len(buffer):
                    return
            yield bytes(buffer[start:end])
            start = end
    finally:
        del buffer[:start]


def _has_payload(frame: bytes) -> bool:
    return frame[:4].rstrip().upper() in _WITH_PAYLOAD


def _message(frame: bytes) -> Message:
    line, _, rest = frame.partition(b"\r\n")
    operation, subject, *words = line.decode().split()
    sizes = 2 if operation.upper().startswith("H") else 1
    more = words[:-sizes]  # MSG: sid [reply]; PUB: [reply]
    if operation.upper().endswith("MSG"):
        more = more[1:]
    split = int(words[-2]) if sizes == 2 else 0
    return Message(subject, more[0] if more else "", rest[:split], rest[split:-2])


def _without_addresses(info: bytes) -> bytes:
    """Remove the cluster's addresses from INFO, so that clients stay with this proxy."""
    fields = json.loads(info[5:])
    if fields.pop("connect_urls", None) is None:
        return info
    return b"INFO " + json.dumps(fields).encode() + b"\r\n"
