"""The imports among modules follow the architecture: rooms in layers, and no circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.statements import statements

ROOT = Path(__file__).parents[1]
PROGRAMS = ("natterjack", "worker", "edge_capture", "gateway")

MAX_MODULES = 15
"""In a room, without its `__init__`."""
MAX_LINES = 400
LONG_MODULES = {
    "worker.audio.feed",
    "worker.capacity.permits",
    "edge_capture.spool.session",
}

CONTRACT = {
    "events", "decoding", "position", "subjects", "audio", "notices", "spec", "control", "hold",
    "settings", "errors", "values",
}  # fmt: skip
"""Modules of `natterjack` that import neither asyncio nor NATS."""
LAYERS: dict[str, list[set[str]]] = {
    # A module imports its own room and those in earlier layers.
    "natterjack": [
        CONTRACT,
        {"voice"},
        {"description", "telemetry", "process", "plugin"},
        {"broker", "transcripts", "emulators"},
        {"fleet", "consume"},
        {"speaking", "webhook", "enrollment"},
        {"local"},
        {"doctor"},
        {"cli"},
        {"sync"},
        {"__main__", "api"},
        {"__init__"},
    ],
    "worker": [
        {"settings", "errors", "metrics"},
        {"audio"},
        {"providers", "metering", "capacity"},
        {"voices"},
        {"services", "trace", "drain", "fitting", "joint", "dialing"},
        {"session"},
        {"voice"},
        {"claim", "stream_watch", "edge_watch"},
        {"health"},
        {"__main__"},
        {"start"},
    ],
    "gateway": [
        {"settings", "errors", "metrics"},
        {"access", "audio"},
        {"session"},
        {"gateway"},
        {"doors", "api", "pages"},
        {"app"},
        {"__main__"},
        {"start"},
    ],
}
ALLOWED = {("gateway", "edge_capture")}
"""A program, and another one from which it may import: the gateway publishes as an edge does. What
else it may import of other programs are the protocols of providers, which it speaks as a server."""


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {_name(path): path for program in PROGRAMS for path in (ROOT / program).rglob("*.py")}


def _imported_names(module: str) -> Iterator[str]:
    """Absolute dotted names of all that a module imports, in functions too."""
    package = module.split(".")[:-1]
    for node in statements(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _resolved(name: str) -> str | None:
    """The module of ours that provides a dotted name."""
    for candidate in (name, name.rpartition(".")[0]):
        for module in (candidate, f"{candidate}.__init__"):
            if module in MODULES:
                return module
    return None


@cache
def _imports() -> dict[str, set[str]]:
    return {
        module: {
            found for name in _imported_names(module) if (found := _resolved(name)) is not None
        }
        - {module}
        for module in MODULES
    }


def _edges() -> Iterator[tuple[str, str]]:
    for module, found in _imports().items():
        yield from ((module, imported) for imported in sorted(found))


def _room(module: str) -> str:
    """The folder of a module; a module beside the rooms is a room of its own."""
    program, *rest = module.split(".")
    return f"{program}.{rest[0]}"


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in a directed graph, or nothing."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node not in done:
            for following in sorted(graph.get(node, ())):
                if found := visit(following, [*path, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_every_import_leads_to_the_same_layer_or_a_lower_one() -> None:
    upward = []
    for program, layers in LAYERS.items():
        rank = {f"{program}.{room}": n for n, rooms in enumerate(layers) for room in rooms}
        unknown = {_room(m) for m in MODULES if m.startswith(f"{program}.")} - {
            *rank, f"{program}.__init__",
        }  # fmt: skip
        assert not unknown, f"in no layer: {unknown}"
        for module, imported in _edges():
            here, there = rank.get(_room(module)), rank.get(_room(imported))
            if here is not None and there is not None and here < there:
                upward.append((module, imported))
    assert not upward


def test_no_circle_among_modules() -> None:
    assert not _circle(_imports())


def test_no_circle_among_rooms() -> None:
    graph: dict[str, set[str]] = {}
    for module, imported in _edges():
        if _room(module) != _room(imported):
            graph.setdefault(_room(module), set()).add(_room(imported))
    assert not _circle(graph)


def test_programs_do_not_import_each_other() -> None:
    crossing = []
    for module, imported in _edges():
        program, other = module.split(".")[0], imported.split(".")[0]
        if other in ("natterjack", program) or (program, other) in ALLOWED:
            continue
        if program == "gateway" and _is_protocol(imported):
            continue
        crossing.append((module, imported))
    assert not crossing


def _is_protocol(module: str) -> bool:
    """Whether a module is a provider's pure protocol."""
    return module.startswith("worker.providers.") and module.endswith(".protocol")


def test_the_contract_imports_neither_asyncio_nor_nats() -> None:
    for module in MODULES:
        if _room(module) in {f"natterjack.{room}" for room in CONTRACT | {"description"}}:
            roots = {name.split(".")[0] for name in _imported_names(module)}
            assert not roots & {"asyncio", "nats"}, module


def test_transcripts_are_made_without_asyncio_and_nats() -> None:
    for module in MODULES:
        if _room(module) == "natterjack.transcripts":
            roots = {name.split(".")[0] for name in _imported_names(module)}
            assert not roots & {"asyncio", "nats"}, module


def test_plugins_need_the_contract_alone() -> None:
    allowed = {f"natterjack.{module}" for module in CONTRACT}
    for module, imported in _edges():
        if _room(module) == "natterjack.plugin":
            assert _room(imported) in {*allowed, "natterjack.plugin"}, (module, imported)


def test_rooms_are_small() -> None:
    rooms: dict[Path, int] = {}
    for path in MODULES.values():
        rooms[path.parent] = rooms.get(path.parent, 0) + (path.name != "__init__.py")
    assert not {str(room): n for room, n in rooms.items() if n > MAX_MODULES}


def test_modules_are_short_but_for_a_few() -> None:
    long = {m for m, path in MODULES.items() if len(path.read_text().splitlines()) > MAX_LINES}
    assert long <= LONG_MODULES
