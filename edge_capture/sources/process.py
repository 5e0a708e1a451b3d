"""Audio that another program writes to its standard output, such as ffmpeg."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from natterjack.audio import AudioFormat
from natterjack.notices import DEVICE_LOST
from natterjack.telemetry.log import fields

from ..errors import SourceError, SourceLost
from ..input.samples import LINEAR16, Samples
from . import Block, always
from .arrival_clock import ArrivalClock
from .pipe_thread import PipeThread

log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_MAX_PENDING_S = 60.0
"""Audio that is held while nothing takes it. Beyond it, the program waits."""
_STALL_S = 20.0
"""A program that writes nothing for so long is started again."""
_EXIT_CHECK_S = 1.0
_OPEN_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_END_S = 2.0
"""How long a program may take to end after SIGTERM."""
_KILLED_S = 0.5
"""How long a program may take to end after SIGKILL. One that hangs in a driver, or runs as another
user as `sudo` does, may take forever, and must not stop the other sources."""
_left: list[subprocess.Popen[bytes]] = []
"""Programs that were left behind."""
_LINES, _LINE_CHARACTERS = 8, 300
_FINISH_CHECK_S = 0.5


class _Program:
    """A running program, in a process group of its own, so that what it starts ends with it."""

    def __init__(self, command: Sequence[str], cure: str) -> None:
        """Start it. Raises: SourceError, which names `cure` if there is no such program."""
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise SourceError(f"{command[0]} is not installed: {cure}") from None
        except OSError as error:
            raise SourceError(f"{command[0]} cannot be started: {error.strerror}") from None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out, self._errors = self._process.stdout, self._process.stderr
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._line = b""
        self._killed = False
        self._complaining = False
        """Whether a thread is reading its errors."""
        self.pending = bytearray()
        """Bytes that were read and not taken yet."""
        self.ended = False
        """Whether it has closed its standard output."""
        self.heard_at = time.monotonic()
        """When it last wrote audio."""
        self.ready = asyncio.Event()
        self.wanted_bytes = 1
        self._limit = 1 << 20
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._threads: tuple[PipeThread, PipeThread] | None = None
        """Read its output and its errors where no loop can watch them."""
        try:
            self._loop.add_reader(self._errors.fileno(), self._read_errors)
        except NotImplementedError:  # on Windows
            out = PipeThread(self._out.fileno(), self._receive)
            self._threads = out, PipeThread(self._errors.fileno(), self._receive_error)
            self._threads[1].read(_READ_BYTES)
            self._complaining = True
        else:
            for each in (self._out, self._errors):
                os.set_blocking(each.fileno(), False)
        self.resume()

    def limit(self, max_bytes: int) -> None:
        """Hold at most about so many bytes."""
        self._limit = max_bytes

    def resume(self) -> None:
        """Read on, if it was paused because too much was pending."""
        if not (self._reading or self.ended) and len(self.pending) < self._limit:
            if self._threads:
                self._threads[0].read(_READ_BYTES)
            else:
                self._loop.add_reader(self._out.fileno(), self._read)
            self._reading = True

    def _stop_reading(self) -> None:
        if self._reading:
            if not self._threads:
                self._loop.remove_reader(self._out.fileno())
            self._reading = False

    def _read(self) -> None:
        try:
            data = os.read(self._out.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._take_in(data)

    def _receive(self, data: bytes | OSError) -> None:
        """Take what the thread has read."""
        self._reading = False
        if not self._killed:
            self._take_in(b"" if isinstance(data, OSError) else data)
            self.resume()

    def _take_in(self, data: bytes) -> None:
        if data:
            self.pending += data
            self.heard_at = time.monotonic()
        else:
            self.ended = True
        if self.ended or len(self.pending) >= self._limit:
            self._stop_reading()
        if self.ended or len(self.pending) >= self.wanted_bytes:
            self.ready.set()

    def _read_errors(self) -> None:
        try:
            data = os.read(self._errors.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._errors.fileno())
        self._take_in_errors(data)

    def _receive_error(self, data: bytes | OSError) -> None:
        """Take what the thread has read."""
        data = b"" if isinstance(data, OSError) else data
        self._take_in_errors(data)
        self._complaining = bool(data)
        if data and self._threads and not self._killed:
            self._threads[1].read(_READ_BYTES)

    def _take_in_errors(self, data: bytes) -> None:
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-_LINE_CHARACTERS:]
        if not data and rest:
            lines.append(rest)
        self._lines.extend(
            line[-_LINE_CHARACTERS:].decode(errors="replace").strip() for line in lines[-_LINES:]
        )

    async def wait(self, seconds: float) -> None:
        """Return when the wanted number of bytes is pending or it has ended, or after `seconds`.
        Cancel-safe."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.ended or len(self.pending) >= self.wanted_bytes):
                    self.ready.clear()
                    self.resume()
                    await self.ready.wait()

    def read_rest(self) -> None:
        """Read what it has written, without waiting."""
        while self._reading and not self._threads and len(self.pending) < self._limit:
            before = len(self.pending)
            self._read()
            if len(self.pending) == before:
                return

    def complaint(self) -> str:
        """The last line that it has written to standard error, and its exit status."""
        if not self._threads:
            with contextlib.suppress(BlockingIOError, OSError, ValueError):
                self._read_errors()
        words = next((line for line in reversed(self._lines) if line), "")
        status = self._process.poll()
        if status is not None and status < 0:
            status_text = f"ended by signal {-status}"
        else:
            status_text = "it has ended" if not status else f"exit status {status}"
        return f"{words} ({status_text})" if words else status_text

    @property
    def exited(self) -> bool:
        """Whether it has ended, even if what it has started holds its standard output open."""
        return self.ended or self._process.poll() is not None

    async def end(self) -> None:
        """Ask it to end, and kill it if it does not."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_END_S):
                while self._process.poll() is None or self._complaining:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill it and all that it has started. Idempotent."""
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        self._close()
        try:
            self._process.wait(_KILLED_S)
        except subprocess.TimeoutExpired:
            log.warning("process %d cannot be ended; it is left behind", self._process.pid)
            _left[:] = [each for each in _left if each.poll() is None]
            _left.append(self._process)
        self._killed = True
        self._reading = False

    def _close(self) -> None:
        """Close its pipes, which many programs notice."""
        if self._threads and not self._killed:
            # They may be reading until all processes with the other ends have ended.
            self._threads[0].end(self._out.close)
            self._threads[1].end(self._errors.close)
        elif not self._threads:
            for each in (self._out, self._errors):
                if not each.closed:
                    self._loop.remove_reader(each.fileno())
                    each.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)  # the group may outlive its first process
            else:
                self._process.terminate()  # on Windows


class ProcessSource:
    """Raw audio that a program writes. The program is started again whenever it ends or is silent.

    The time without it becomes a gap.
    """

    can_wait = False

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        audio_format: AudioFormat,
        *,
        wait_seconds: float,
        cure: str,
        clean: Callable[[str], str] = str,
    ) -> None:
        """`wait_seconds`: how long to wait for audio before the session ends. `cure` says how to
        install the program. `clean` removes what is secret from its messages."""
        self.name = name
        self.format = audio_format
        self.wanted_frames = 1
        self.can_finish = always
        self.waiting_for: str | None = None
        self._command = command
        self._cure = cure
        self._clean = clean
        self._wait_seconds = wait_seconds
        self._linear = audio_format.encoding == "linear16"
        self._clock = ArrivalClock(audio_format.sample_rate)
        self._program: _Program | None = None
        self._gap = False
        """Whether audio was lost before what comes next."""

    def _start(self) -> _Program:
        self._program = program = _Program(self._command, self._cure)
        program.limit(self._bytes(_MAX_PENDING_S))
        return program

    def _bytes(self, seconds: float) -> int:
        return int(seconds * self.format.sample_rate) * self.format.frame_bytes

    async def open(self) -> None:
        """Start the program and wait for its first audio.

        Cancel-safe. Raises: SourceError if there is none within 30 s.
        """
        program = self._start()
        try:
            program.wanted_bytes = self.format.frame_bytes
            await program.wait(_OPEN_S)
            if len(program.pending) < self.format.frame_bytes:
                if not program.ended:
                    raise SourceError(f"{self.name}: no audio for {_OPEN_S:.0f} s")
                await program.end()
                raise SourceError(self._clean(f"{self.name}: {program.complaint()}"))
        except BaseException:  # including cancellation
            program.kill()
            raise

    async def blocks(self) -> AsyncGenerator[Block, None]:
        program = self._program
        assert program is not None
        try:
            while True:
                program.wanted_bytes = self.wanted_frames * self.format.frame_bytes
                silent_s = time.monotonic() - program.heard_at
                await program.wait(max(0.0, min(_EXIT_CHECK_S, _STALL_S - silent_s)))
                if (block := self._take(program)) is not None:
                    yield block
                elif program.exited or time.monotonic() - program.heard_at >= _STALL_S:
                    program = await self._restarted(program)
        finally:
            program.read_rest()

    def _take(self, program: _Program) -> Block | None:
        """Return the pending whole frames, if there are any."""
        size = len(program.pending) - len(program.pending) % self.format.frame_bytes
        if not size:
            return None
        data = bytes(program.pending[:size])
        del program.pending[:size]
        samples: Samples = LINEAR16.decode(data) if self._linear else np.frombuffer(data, np.uint8)
        samples = samples.reshape(-1, self.format.channels)
        now = time.time_ns()
        lost = self._clock.gap(now, len(samples)) if self._gap else 0
        self._gap = False
        return Block(samples, self._clock.feed(len(samples), now), lost, DEVICE_LOST)

    async def _restarted(self, program: _Program) -> _Program:
        """Start the program again, until it writes audio. Cancel-safe.

        Raises: SourceLost if it writes none for too long and the session can finish.
        """
        self.waiting_for = self.name
        self._gap = True
        lost_at = time.monotonic()
        pause, said = _FIRST_PAUSE_S, ""
        why = "" if program.exited else "no audio"
        await program.end()
        why = why or program.complaint()
        while True:
            text = self._clean(f"{self.name}: {why}")
            if text != said:
                said = text
                log.warning("%s; starting it again", text)
            if time.monotonic() - lost_at >= self._wait_seconds and self.can_finish():
                raise SourceLost(text)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, 2 * pause)
            try:
                program = self._start()
            except SourceError as error:
                why = str(error)
                continue
            program.wanted_bytes = self.format.frame_bytes
            await program.wait(_STALL_S)
            if len(program.pending) >= self.format.frame_bytes:
                break
            why = program.complaint() if program.ended else "no audio"
            await program.end()
            if program.ended:
                why = program.complaint()
        self.waiting_for = None
        log.warning(
            "%s is back", self.name,
            extra=fields(missing_seconds=round(time.monotonic() - lost_at, 2)),
        )  # fmt: skip
        return program

    def remaining(self) -> list[Block]:
        if self._program is None:
            return []
        block = self._take(self._program)
        return [block] if block is not None else []

    def close(self) -> None:
        """End the program. Idempotent."""
        program, self._program = self._program, None
        if program is not None:
            program.kill()
