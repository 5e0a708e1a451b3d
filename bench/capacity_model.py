"""Compute the resources that a number of sessions needs: `python -m bench.capacity_model --help`.

Each input is a flag, so that you can use measurements of your machines (`make bench`,
`python -m bench.scale`) and the limits of your account and disks. docs/explanation/scaling.md lists
the sources of the defaults and says which of them are guesses.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from natterjack.process.table import table

STEPS = (1, 100, 1_000, 10_000, 100_000)
_MANY_CELLS = 100_000
_DUPLICATES_S = 120
"""Deduplication window of STT_AUDIO: natterjack.broker.streams.DUPLICATE_WINDOW_S."""
_SUBJECTS = 4
"""Subjects per session in STT_TRANSCRIPTS: final, turn, status, usage."""
_VOICE_SUBJECTS = 3
"""Subjects per session in TTS_EVENTS: status, utterance, usage."""


def _input(default: float, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Inputs:
    """Inputs of the model. Shares are between 0 and 1."""

    # Audio
    chunk_ms: float = _input(80, "milliseconds of audio per chunk")
    bytes_per_s: float = _input(
        32_000, "bytes of audio per second of a session; 16 kHz mono linear16"
    )
    header_bytes: float = _input(210, "bytes per chunk for headers and for overhead of the store")
    # Workers
    worker_cpu_s_per_hour: float = _input(
        2.51, "CPU seconds of a worker per hour of audio; assumed for speech, too"
    )
    worker_core_use: float = _input(0.5, "planned utilization of a worker's core")
    worker_sessions: int = _input(500, "WORKER_MAX_SESSIONS")
    worker_base_mb: float = _input(69, "MB of memory of a worker without sessions")
    worker_session_kb: float = _input(53, "KB of memory per session in a worker")
    spare_workers: int = _input(1, "workers that may be missing")
    lease_s: float = _input(
        3, "NATTERJACK_LEASE_SECONDS; a session renews its lease three times in it"
    )
    # Provider
    account_connections: int = _input(
        150, "concurrent connections that the provider account allows"
    )
    # Broker
    replicas: int = _input(3, "replicas of each stream, and nodes of a cell")
    kept_s: float = _input(900, "NATTERJACK_AUDIO_MAX_AGE_SECONDS")
    disk_per_byte: float = _input(1.2, "disk space per stored byte")
    written_per_byte: float = _input(2.1, "bytes that a node writes per stored byte")
    node_cpu_s_per_hour: float = _input(
        2.7, "CPU seconds of the busiest node per hour of audio; assumed for speech, too"
    )
    events_per_s: float = _input(0.75, "stored events per second of speech: finals, turns")
    event_bytes: float = _input(830, "bytes per event, headers included")
    events_kept_s: float = _input(604_800, "NATTERJACK_TRANSCRIPTS_MAX_AGE_SECONDS")
    session_s: float = _input(600, "duration of a session in seconds")
    record_bytes: float = _input(
        800, "bytes per second of a session's record and checkpoints, which are overwritten"
    )
    id_bytes: float = _input(
        230, "bytes of memory per chunk ID in the deduplication window of two minutes"
    )
    subject_bytes: float = _input(
        270, "bytes of memory per subject of STT_TRANSCRIPTS; a session has four"
    )
    # Voice: each voice session speaks all the time, as each other session captures all the time
    voice_share: float = _input(0.0, "voice sessions for each session that transcribes")
    speech_bytes_per_s: float = _input(
        48_000, "bytes of speech per second; 24 kHz mono linear16, as sessions ask for by default"
    )
    speech_chunk_ms: float = _input(107, "milliseconds of speech per chunk")
    speech_header_bytes: float = _input(290, "as header_bytes, of speech")
    speech_kept_s: float = _input(120, "NATTERJACK_TTS_AUDIO_MAX_AGE_SECONDS")
    text_pieces_per_s: float = _input(
        4, "pieces of text per second of speech: each token of a language model"
    )
    text_piece_bytes: float = _input(240, "bytes per piece, headers included")
    text_kept_s: float = _input(900, "NATTERJACK_TTS_TEXT_MAX_AGE_SECONDS")
    voice_events_per_s: float = _input(
        0.25, "stored events per second of speech: starts and ends of utterances, use"
    )
    voice_event_bytes: float = _input(750, "bytes per event of a voice session")
    # Limits of a cell
    stream_messages_per_s: float = _input(
        12_500, "messages per second that one STT_AUDIO can store"
    )
    node_cores: float = _input(8, "cores of a node")
    node_core_use: float = _input(0.5, "planned utilization of the cores")
    node_gbit_per_s: float = _input(10, "Gbit/s of a node's network, each way")
    node_network_use: float = _input(0.5, "planned utilization of the network")
    node_gb: float = _input(32, "GB of memory of a node")
    node_memory_use: float = _input(0.5, "planned utilization of the memory")
    disk_gb: float = _input(1_000, "GB of disk space of a node for the stores")
    disk_mb_per_s: float = _input(500, "MB/s that a node can write continuously")
    disk_use: float = _input(0.7, "planned utilization of disk space and throughput")
    heartbeats_per_s: float = _input(
        40_000, "lease renewals per second that one consumer can process"
    )
    news_per_s: float = _input(
        100_000, "messages about permits per second that a cell can deliver to its workers"
    )
    slot_news_s: float = _input(5, "seconds between two renewals of a permit")

    def __post_init__(self) -> None:
        for each in fields(self):
            least = "0 or more" if each.name in ("spare_workers", "voice_share") else "more than 0"
            value = getattr(self, each.name)
            if value < 0 or (value == 0 and least == "more than 0"):
                raise ValueError(f"{each.name} must be {least}")


class Load(NamedTuple):
    """Load of one resource of a cell, and its limit."""

    what: str
    needed: float
    allowed: float
    unit: str

    @property
    def share(self) -> float:
        return self.needed / self.allowed


@dataclass(frozen=True)
class Need:
    """Resources that `sessions` need."""

    sessions: int
    cells: int
    """Number of installations, each with its own streams and nodes."""
    workers: int
    worker_cores: float
    """Cores that the workers use; the planned number is higher."""
    worker_mb: float
    """Memory of a full worker."""
    nodes: int
    chunks_per_s: float
    gbit_per_s: float
    """Audio and headers that the edges send, without speech."""
    leader_gbit_per_s: float
    """Traffic from the leader of the audio in one cell to followers, workers and players."""
    kept_gb: float
    """Audio and events on the disk of each node of a cell."""
    written_mb_per_s: float
    """Write rate of each node of a cell."""
    connections: int
    """Connections to providers that transcribe."""
    accounts: float
    """Number of provider accounts with the given limit."""
    first: Load
    """Load of a cell that is nearest its limit."""


def sessions_per_worker(inputs: Inputs) -> int:
    """Return the sessions per worker, limited by its slots and its planned CPU share."""
    by_cpu = math.floor(inputs.worker_core_use * 3600 / inputs.worker_cpu_s_per_hour)
    return max(1, min(inputs.worker_sessions, by_cpu))


def workers(sessions: int, inputs: Inputs) -> int:
    """Return the number of workers, spare ones included; one session needs no spare. A voice
    session takes a slot, too."""
    held = sessions * (1 + inputs.voice_share)
    needed = math.ceil(held / sessions_per_worker(inputs))
    return needed + (inputs.spare_workers if sessions > 1 else 0)


def stored_bytes_per_s(inputs: Inputs) -> float:
    """Return the stored bytes per second of one session's audio in one replica."""
    return inputs.bytes_per_s + inputs.header_bytes * 1000 / inputs.chunk_ms


def leader_bytes_per_s(inputs: Inputs) -> float:
    """Return the bytes per second that a leader sends for one session's audio, at most, and for its
    share of a voice session.

    It sends the audio once to each follower and once towards the worker; speech, to the player.
    """
    speech = stored_speech_bytes_per_s(inputs) + stored_text_bytes_per_s(inputs)
    return (stored_bytes_per_s(inputs) + inputs.voice_share * speech) * inputs.replicas


def stored_speech_bytes_per_s(inputs: Inputs) -> float:
    """As `stored_bytes_per_s`, of a voice session's speech."""
    return inputs.speech_bytes_per_s + inputs.speech_header_bytes * 1000 / inputs.speech_chunk_ms


def stored_text_bytes_per_s(inputs: Inputs) -> float:
    """As `stored_bytes_per_s`, of a voice session's text."""
    return inputs.text_pieces_per_s * inputs.text_piece_bytes


def kept_bytes(inputs: Inputs) -> float:
    """Return the disk space per node for one continuous session, and its share of a voice session.

    It consists of the session's audio and the events of the sessions before it.
    """
    audio = stored_bytes_per_s(inputs) * inputs.kept_s
    events = inputs.events_per_s * inputs.event_bytes * inputs.events_kept_s
    return (audio + events) * inputs.disk_per_byte + inputs.voice_share * kept_voice_bytes(inputs)


def kept_voice_bytes(inputs: Inputs) -> float:
    """Return the disk space per node for one voice session that speaks all the time: its speech and
    text, and the events of the sessions before it."""
    speech = stored_speech_bytes_per_s(inputs) * inputs.speech_kept_s
    text = stored_text_bytes_per_s(inputs) * inputs.text_kept_s
    events = inputs.voice_events_per_s * inputs.voice_event_bytes * inputs.events_kept_s
    return (speech + text + events) * inputs.disk_per_byte


def written_bytes_per_s(inputs: Inputs) -> float:
    """Return the bytes per second that each node writes for one session: audio, events, records."""
    events = inputs.events_per_s * inputs.event_bytes + inputs.record_bytes
    voice = (
        stored_speech_bytes_per_s(inputs) + stored_text_bytes_per_s(inputs)
        + inputs.voice_events_per_s * inputs.voice_event_bytes + inputs.record_bytes
    )  # fmt: skip
    each = stored_bytes_per_s(inputs) + events + inputs.voice_share * voice
    return each * inputs.written_per_byte


def resident_bytes(inputs: Inputs) -> float:
    """Return the memory per node for one continuous session.

    It consists of the IDs of its last chunks and the subjects of the events of earlier sessions;
    all of this for its share of a voice session, too.
    """
    ids = 1000 / inputs.chunk_ms * min(_DUPLICATES_S, inputs.kept_s) * inputs.id_bytes
    speech = 1000 / inputs.speech_chunk_ms * inputs.speech_kept_s
    text = inputs.text_pieces_per_s * min(_DUPLICATES_S, inputs.text_kept_s)
    ids += inputs.voice_share * (speech + text) * inputs.id_bytes
    subjects = _SUBJECTS + inputs.voice_share * _VOICE_SUBJECTS
    sessions = inputs.events_kept_s / inputs.session_s
    return ids + subjects * sessions * inputs.subject_bytes


def loads(sessions: int, inputs: Inputs) -> list[Load]:
    """Return the loads of all limited resources of a cell with so many sessions."""
    disk, network = inputs.disk_use, inputs.node_network_use
    held = sessions * (1 + inputs.voice_share)
    news = held / inputs.slot_news_s * workers(sessions, inputs)
    chunks = sessions * 1000 / inputs.chunk_ms
    speech = sessions * inputs.voice_share * 1000 / inputs.speech_chunk_ms
    cores = held * inputs.node_cpu_s_per_hour / 3600
    gbit = sessions * leader_bytes_per_s(inputs) * 8 / 1e9
    memory = sessions * resident_bytes(inputs) / 1e9
    kept = sessions * kept_bytes(inputs) / 1e9
    written = sessions * written_bytes_per_s(inputs) / 1e6
    beats = held * 3 / inputs.lease_s
    return [
        Load("chunks into STT_AUDIO", chunks, inputs.stream_messages_per_s, "/s"),
        Load("chunks into TTS_AUDIO", speech, inputs.stream_messages_per_s, "/s"),
        Load("cores of the leader", cores, inputs.node_cores * inputs.node_core_use, "cores"),
        Load("network of the leader", gbit, inputs.node_gbit_per_s * network, "Gbit/s"),
        Load("memory of a node", memory, inputs.node_gb * inputs.node_memory_use, "GB"),
        Load("disk of a node", kept, inputs.disk_gb * disk, "GB"),
        Load("writes of a node", written, inputs.disk_mb_per_s * disk, "MB/s"),
        Load("lease renewals", beats, inputs.heartbeats_per_s, "/s"),
        Load("permit messages", news, inputs.news_per_s, "/s"),
    ]


def first_limit(sessions: int, inputs: Inputs) -> Load:
    """Return the load of a cell that is nearest its limit, or farthest beyond it."""
    return max(loads(sessions, inputs), key=lambda load: load.share)


def cells(sessions: int, inputs: Inputs) -> int:
    """Return the least number of cells in which no load exceeds its limit.

    Raises: ValueError if a cell cannot carry a single session.
    """
    low, high = 1, min(sessions, _MANY_CELLS)
    if first_limit(math.ceil(sessions / high), inputs).share > 1:
        load = first_limit(1, inputs)
        raise ValueError(
            f"a cell cannot carry one session: {load.what}, {load.needed:g} {load.unit}"
        )
    while low < high:
        middle = (low + high) // 2
        if first_limit(math.ceil(sessions / middle), inputs).share > 1:
            low = middle + 1
        else:
            high = middle
    return low


def need(sessions: int, inputs: Inputs) -> Need:
    """Compute the resources for so many sessions.

    Raises: ValueError if a cell cannot carry a single session.
    """
    if sessions < 1:
        raise ValueError("sessions must be 1 or more")
    count = cells(sessions, inputs)
    each = math.ceil(sessions / count)
    full = min(math.ceil(each * (1 + inputs.voice_share)), sessions_per_worker(inputs))
    return Need(
        sessions=sessions,
        cells=count,
        workers=count * workers(each, inputs),
        worker_cores=sessions * (1 + inputs.voice_share) * inputs.worker_cpu_s_per_hour / 3600,
        worker_mb=inputs.worker_base_mb + full * inputs.worker_session_kb / 1024,
        nodes=count * inputs.replicas,
        chunks_per_s=sessions * 1000 / inputs.chunk_ms,
        gbit_per_s=sessions * stored_bytes_per_s(inputs) * 8 / 1e9,
        leader_gbit_per_s=each * leader_bytes_per_s(inputs) * 8 / 1e9,
        kept_gb=each * kept_bytes(inputs) / 1e9,
        written_mb_per_s=each * written_bytes_per_s(inputs) / 1e6,
        connections=sessions,
        accounts=sessions / inputs.account_connections,
        first=first_limit(each, inputs),
    )


_HEAD = (
    *("sessions", "cells", "NATS nodes", "workers", "worker cores", "MB a worker", "chunks/s"),
    *("Gbit/s in", "Gbit/s leader", "GB a node", "MB/s a node", "accounts"),
    "nearest limit of a cell",
)


def rows(needs: Sequence[Need]) -> list[tuple[str, ...]]:
    """Return one table row per need, with the columns of `_HEAD`."""
    return [
        (
            f"{n.sessions:,}",
            f"{n.cells:,}",
            f"{n.nodes:,}",
            f"{n.workers:,}",
            f"{n.worker_cores:.1f}" if n.worker_cores < 10 else f"{n.worker_cores:,.0f}",
            f"{n.worker_mb:.0f}",
            f"{n.chunks_per_s:,.0f}",
            f"{n.gbit_per_s:.2f}",
            f"{n.leader_gbit_per_s:.2f}",
            f"{n.kept_gb:,.1f}" if n.kept_gb < 10 else f"{n.kept_gb:,.0f}",
            f"{n.written_mb_per_s:.1f}" if n.written_mb_per_s < 10 else f"{n.written_mb_per_s:.0f}",
            f"{n.accounts:.2f}" if n.accounts < 10 else f"{n.accounts:,.0f}",
            f"{n.first.what}, {n.first.share:.0%}",
        )
        for n in needs
    ]


def markdown(needs: Sequence[Need]) -> str:
    """Return the table of docs/explanation/scaling.md."""
    lines = [_HEAD, tuple("---" for _ in _HEAD), *rows(needs)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.capacity_model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--sessions", type=int, nargs="+", default=list(STEPS), help="concurrent sessions"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of docs/explanation/scaling.md"
    )
    parser.add_argument("--loads", action="store_true", help="print all loads of one cell")
    for each in fields(Inputs):
        parser.add_argument(
            f"--{each.name.replace('_', '-')}", dest=each.name, default=each.default,
            type=float if each.type == "float" else int, metavar="N",
            help=f"{each.metadata['help']} [{each.default:g}]",
        )  # fmt: skip
    arguments = parser.parse_args(argv)
    try:
        inputs = Inputs(**{each.name: getattr(arguments, each.name) for each in fields(Inputs)})
        needs = [need(sessions, inputs) for sessions in arguments.sessions]
    except ValueError as error:
        parser.error(str(error))
    if arguments.markdown:
        print(markdown(needs))
    else:
        print(*table([_HEAD, *rows(needs)], right=range(len(_HEAD) - 1)), sep="\n")
    if arguments.loads:
        for found in needs:
            count = math.ceil(found.sessions / found.cells)
            print(f"\none of {found.cells} cells, {count} sessions")
            lines = [
                [f"{load.share:.1%}", load.what,
                 f"{load.needed:,.2f} of {load.allowed:,.0f} {load.unit}"]
                for load in sorted(loads(count, inputs), key=lambda load: -load.share)
            ]  # fmt: skip
            print(*table(lines, right=(0,)), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
