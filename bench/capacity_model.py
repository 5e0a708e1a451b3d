"""What so many sessions need, computed: `python -m bench.capacity_model --help`.

Plain arithmetic on stated inputs; each is a flag, so that you can put in what you have measured on
your machines (`make bench`, `python -m bench.scale`) and what your account and your disks allow.
docs/scaling.md tells where the defaults are from, and which of them are guesses.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from natterjack.cli.table import table

STEPS = (1, 100, 1_000, 10_000, 100_000)
_MANY_CELLS = 100_000
_DUPLICATES_S = 120
"""How long STT_AUDIO knows the ids of chunks: natterjack.broker.streams.DUPLICATE_WINDOW_S."""
_SUBJECTS = 4
"""Of a session in STT_TRANSCRIPTS: final, turn, status, usage."""


def _input(default: float, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Inputs:
    """What is assumed. Shares are of 1."""

    # The sound
    chunk_ms: float = _input(80, "milliseconds of sound in a chunk")
    bytes_per_s: float = _input(32_000, "of sound, of a session; 16 kHz mono linear16")
    header_bytes: float = _input(210, "of a chunk: headers and what the store adds")
    # Workers
    worker_cpu_s_per_hour: float = _input(2.51, "processor seconds of a worker an hour of audio")
    worker_core_use: float = _input(0.5, "of a worker's one core that is planned for")
    worker_sessions: int = _input(500, "WORKER_MAX_SESSIONS")
    worker_base_mb: float = _input(69, "a worker without sessions")
    worker_session_kb: float = _input(53, "a session in a worker")
    spare_workers: int = _input(1, "that may be missing")
    lease_s: float = _input(3, "NATTERJACK_LEASE_SECONDS; a session renews it three times in that")
    # Provider
    account_connections: int = _input(150, "that the account allows at a time")
    # Broker
    replicas: int = _input(3, "of each stream, on as many nodes")
    kept_s: float = _input(900, "NATTERJACK_AUDIO_MAX_AGE_SECONDS")
    disk_per_byte: float = _input(1.2, "that a node's disk holds for each byte kept")
    written_per_byte: float = _input(2.1, "that a node writes for each byte stored")
    node_cpu_s_per_hour: float = _input(2.7, "of the busiest node, an hour of audio")
    events_per_s: float = _input(0.75, "kept, of a session that speaks: finals, turns")
    event_bytes: float = _input(830, "of one, with its headers")
    events_kept_s: float = _input(604_800, "NATTERJACK_TRANSCRIPTS_MAX_AGE_SECONDS")
    session_s: float = _input(600, "that a session lasts")
    record_bytes: float = _input(
        800, "of a session's record and checkpoints, written over each second"
    )
    id_bytes: float = _input(230, "of memory for a chunk's id, which is known for two minutes")
    subject_bytes: float = _input(
        270, "of memory for a subject of STT_TRANSCRIPTS; a session has four"
    )
    # What a cell is planned to carry
    stream_messages_per_s: float = _input(12_500, "that one STT_AUDIO stores")
    node_cores: float = _input(8, "of a node")
    node_core_use: float = _input(0.5, "of them that is planned for")
    node_gbit_per_s: float = _input(10, "of a node's network, each way")
    node_network_use: float = _input(0.5, "of it that is planned for")
    node_gb: float = _input(32, "of a node's memory")
    node_memory_use: float = _input(0.5, "of it that is planned for")
    disk_gb: float = _input(1_000, "of a node for the stores")
    disk_mb_per_s: float = _input(500, "that it writes, for good")
    disk_use: float = _input(0.7, "of both that is planned for")
    heartbeats_per_s: float = _input(40_000, "of leases that one consumer takes")
    news_per_s: float = _input(100_000, "messages of slots that a cell delivers to its workers")
    slot_news_s: float = _input(5, "between two renewals of a slot")

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0 and each.name != "spare_workers":
                raise ValueError(f"{each.name} must be more than 0")
        if self.spare_workers < 0:
            raise ValueError("spare_workers must be 0 or more")


class Load(NamedTuple):
    """How much of something one cell needs, of how much it may."""

    what: str
    needed: float
    allowed: float
    unit: str

    @property
    def share(self) -> float:
        return self.needed / self.allowed


@dataclass(frozen=True)
class Need:
    """What `sessions` need."""

    sessions: int
    cells: int
    """Installations, each with streams and nodes of its own, among which they are divided."""
    workers: int
    worker_cores: float
    """That their processes use, not those that are planned for them."""
    worker_mb: float
    """Of one that is full."""
    nodes: int
    chunks_per_s: float
    gbit_per_s: float
    """Of sound with its headers, as the edges send it."""
    leader_gbit_per_s: float
    """That the leader of a cell's audio sends: to its followers, and to the workers."""
    kept_gb: float
    """On the disk of each node of a cell: audio and events."""
    written_mb_per_s: float
    """By each node of a cell."""
    connections: int
    accounts: float
    """Times the account's limit that is."""
    first: Load
    """Of one cell, what is nearest its end."""


def sessions_per_worker(inputs: Inputs) -> int:
    """As many as its settings allow, and half a core (or what is planned for) carries."""
    by_cpu = math.floor(inputs.worker_core_use * 3600 / inputs.worker_cpu_s_per_hour)
    return max(1, min(inputs.worker_sessions, by_cpu))


def workers(sessions: int, inputs: Inputs) -> int:
    """With those that may be missing; one is one."""
    needed = math.ceil(sessions / sessions_per_worker(inputs))
    return needed + (inputs.spare_workers if sessions > 1 else 0)


def stored_bytes_per_s(inputs: Inputs) -> float:
    """Of one session's audio, in one replica."""
    return inputs.bytes_per_s + inputs.header_bytes * 1000 / inputs.chunk_ms


def leader_bytes_per_s(inputs: Inputs) -> float:
    """Of one session's audio that the stream's leader sends, at most: once to each follower, and
    once to its worker, if that is connected to the leader or behind it."""
    return stored_bytes_per_s(inputs) * inputs.replicas


def kept_bytes(inputs: Inputs) -> float:
    """Of one session that always is, on each node's disk: its audio, and the events of the
    sessions before it."""
    audio = stored_bytes_per_s(inputs) * inputs.kept_s
    events = inputs.events_per_s * inputs.event_bytes * inputs.events_kept_s
    return (audio + events) * inputs.disk_per_byte


def written_bytes_per_s(inputs: Inputs) -> float:
    """By each node for one session: audio, events, its part of the record of its worker."""
    events = inputs.events_per_s * inputs.event_bytes + inputs.record_bytes
    return (stored_bytes_per_s(inputs) + events) * inputs.written_per_byte


def resident_bytes(inputs: Inputs) -> float:
    """Of one session that always is, in each node's memory: the ids of its last chunks, and the
    subjects under which the events of the sessions before it are kept."""
    ids = 1000 / inputs.chunk_ms * min(_DUPLICATES_S, inputs.kept_s) * inputs.id_bytes
    subjects = _SUBJECTS * inputs.events_kept_s / inputs.session_s * inputs.subject_bytes
    return ids + subjects


def loads(sessions: int, inputs: Inputs) -> list[Load]:
    """What one cell with so many sessions needs of all that may come to its end."""
    disk, network = inputs.disk_use, inputs.node_network_use
    news = sessions / inputs.slot_news_s * workers(sessions, inputs)
    chunks = sessions * 1000 / inputs.chunk_ms
    cores = sessions * inputs.node_cpu_s_per_hour / 3600
    gbit = sessions * leader_bytes_per_s(inputs) * 8 / 1e9
    memory = sessions * resident_bytes(inputs) / 1e9
    kept = sessions * kept_bytes(inputs) / 1e9
    written = sessions * written_bytes_per_s(inputs) / 1e6
    beats = sessions * 3 / inputs.lease_s
    return [
        Load("chunks into STT_AUDIO", chunks, inputs.stream_messages_per_s, "/s"),
        Load("cores of the leader", cores, inputs.node_cores * inputs.node_core_use, "cores"),
        Load("network of the leader", gbit, inputs.node_gbit_per_s * network, "Gbit/s"),
        Load("memory of a node", memory, inputs.node_gb * inputs.node_memory_use, "GB"),
        Load("disk of a node", kept, inputs.disk_gb * disk, "GB"),
        Load("writes of a node", written, inputs.disk_mb_per_s * disk, "MB/s"),
        Load("heartbeats of leases", beats, inputs.heartbeats_per_s, "/s"),
        Load("news of provider slots", news, inputs.news_per_s, "/s"),
    ]


def first_limit(sessions: int, inputs: Inputs) -> Load:
    """Of a cell with so many sessions, what is nearest its end, or farthest beyond it."""
    return max(loads(sessions, inputs), key=lambda load: load.share)


def cells(sessions: int, inputs: Inputs) -> int:
    """The least number of cells in which nothing is beyond its end. Raises ValueError when one
    session is too much."""
    low, high = 1, min(sessions, _MANY_CELLS)
    if first_limit(math.ceil(sessions / high), inputs).share > 1:
        load = first_limit(1, inputs)
        raise ValueError(f"no cell carries a session: {load.what}, {load.needed:g} {load.unit}")
    while low < high:
        middle = (low + high) // 2
        if first_limit(math.ceil(sessions / middle), inputs).share > 1:
            low = middle + 1
        else:
            high = middle
    return low


def need(sessions: int, inputs: Inputs) -> Need:
    """What so many sessions need. Raises ValueError when no cell carries even one."""
    if sessions < 1:
        raise ValueError("sessions must be 1 or more")
    count = cells(sessions, inputs)
    each = math.ceil(sessions / count)
    full = min(each, sessions_per_worker(inputs))
    return Need(
        sessions=sessions,
        cells=count,
        workers=count * workers(each, inputs),
        worker_cores=sessions * inputs.worker_cpu_s_per_hour / 3600,
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
    *("sessions", "cells", "NATS nodes", "workers", "their cores", "MB each", "chunks/s"),
    *("Gbit/s in", "Gbit/s leader", "GB a node", "MB/s a node", "of the account"),
    "nearest its end in a cell",
)


def rows(needs: Sequence[Need]) -> list[tuple[str, ...]]:
    """A row for each, under `_HEAD`."""
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
    """The table as docs/scaling.md has it."""
    lines = [_HEAD, tuple("---" for _ in _HEAD), *rows(needs)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.capacity_model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--sessions", type=int, nargs="+", default=list(STEPS), help="at a time")
    parser.add_argument(
        "--markdown", action="store_true", help="the table as docs/scaling.md has it"
    )
    parser.add_argument(
        "--loads", action="store_true", help="all that may end, of one cell of each"
    )
    for each in fields(Inputs):
        parser.add_argument(
            f"--{each.name.replace('_', '-')}", dest=each.name, default=each.default,
            type=type(each.default), metavar="N",
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
            for load in sorted(loads(count, inputs), key=lambda load: -load.share):
                usage = f"{load.needed:,.2f} of {load.allowed:,.0f} {load.unit}"
                print(f"{load.share:>7.1%}  {load.what:24} {usage}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
