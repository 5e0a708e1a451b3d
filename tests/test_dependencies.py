"""Private parts of other projects: where they are used, that they exist, and that the range in
pyproject.toml ends at a release that was tried."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser
from packaging.requirements import Requirement
from packaging.version import Version

from natterjack.process.waiting import wait_for

ROOT = Path(__file__).parent.parent
FOLDERS = ("natterjack", "worker", "edge_capture", "gateway", "bench", "tests", "deploy", "docs")
FASTPATH = ("natterjack/broker/client/fastpath.py", "natterjack/broker/client/parser.py")

NATS_PY = {
    # Methods that fastpath overrides, with their parameters.
    "_connect_to_server": ("client", "(s)"),
    "_attempt_reconnect": ("client", "()"),
    "_process_connect_init": ("client", "()"),
    "_process_err": ("client", "(err_msg)"),
    "_process_info": ("client", "(info, initial_connection=False)"),
    "_read_loop": ("client", "()"),
    "_process_msg": ("client", "(sid, subject, reply, data, headers)"),
    "_send_ping": ("client", "(future=None)"),
    "_process_pong": ("client", "()"),
    "_flush_pending": ("client", "(force_flush=False)"),
    # Attributes of a client that is not connected yet, with their types.
    "_ps": ("client", "Parser"),
    "_error_cb": ("client", "function"),
    "_inbox_prefix": ("client", "bytearray"),
    "_subs": ("client", "dict"),
    "_sid": ("client", "int"),
    "_transport": ("client", "NoneType"),
    "_current_server": ("client", "NoneType"),
    "_server_pool": ("client", "list"),
    "_public_nkey": ("client", "NoneType"),
    "_auth_configured": ("client", "bool"),
    "_max_payload": ("client", "int"),
    "_pending": ("client", "list"),
    "_pending_data_size": ("client", "int"),
    "_status": ("client", "int"),
    "_reading_task": ("client", "NoneType"),
    "_ping_interval_task": ("client", "NoneType"),
    "_flusher_task": ("client", "NoneType"),
    "_flush_queue": ("client", "NoneType"),
    "_pongs": ("client", "list"),
    "_io_reader": ("transport", "NoneType"),
    "_io_writer": ("transport", "NoneType"),
    "_id": ("subscription", "int"),
    "_pending_queue": ("subscription", "Queue"),
    # Internal, though not private by name: the parser that fastpath derives its own from.
    "buf": ("parser", "bytearray"),
    "state": ("parser", "int"),
    "reset": ("parser", "()"),
    "parse": ("parser", "(data=b'')"),
    # asyncio has no public way to ask a reader how much it holds.
    "_buffer": ("reader", "bytearray"),
}
"""Every internal name that fastpath uses: the object that has it, and its parameters or its type.
fastpath says why each is needed."""

OTHERS: dict[tuple[str, str], set[str]] = {
    # PortAudio knows only the devices of its start, and sounddevice cannot restart it publicly; at
    # exit it waits for a dead device without end.
    ("sounddevice", "edge_capture/sources/devices.py"): {
        "_initialized", "_terminate", "_initialize", "_exit_handler",
    },
    # A registry does not list its collectors, nor a metric without samples its labels.
    ("prometheus_client", "docs/generate/metrics.py"): {
        "_collector_to_names", "_labelnames", "_upper_bounds",
    },
}  # fmt: skip
"""Private names that other modules use, by dependency and module."""

PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit"}
"""Documented names of NamedTuple and os that begin with an underscore."""

WITHOUT_BOUND = {"_SubParsersAction", "_HelpAction", "_actions", "_choices_actions", "_writer"}
"""argparse has no public name for some of its types, nor a list of a parser's arguments. A test
uses aiohttp's writer to close one direction of a WebSocket."""


ACCESS = re.compile(r"(?<!\bself)(?<!\bcls)\._(?!_)\w|\b[gs]etattr\b")
"""Found where a private name of an object may be accessed, unless it is the method's own object."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def last_name(node: ast.expr) -> str:
    """Return `b` for `a.b`, `a` for `a`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def accesses(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield each private name that is accessed on an object, with the last name of the object."""
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield last_name(node.value), node.attr
        elif isinstance(node, ast.Call) and last_name(node.func) in ("getattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield last_name(node.args[0]), str(name.value)


def definitions(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names of functions, classes, variables and attributes that a module defines."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and last_name(node.value) == "self"
        ):
            yield node.attr


def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def test_the_list_of_internal_names_of_nats_py_is_complete() -> None:
    nodes = [node for path in FASTPATH for node in nodes_of(ROOT / path)]
    own = {"_flushing", "_socket", "_flusher_ended", "_flush_later", "_flush_now", "_number"}
    own |= {"_client", "_subscription", "_unparsed", "_reader", "_deliver", "_check_size"}
    own |= {"_largest_command", "_largest_message", "_known_limit", "_next_known_limit"}
    own |= {"_set_limit", "_direct", "_open", "_reconnections", "_stop_if_ending"}
    overridden = {
        node.name
        for node in nodes
        if isinstance(node, ast.AsyncFunctionDef) and is_private(node.name)
    }
    parser = {"buf", "state", "reset", "parse"}
    used = {name for _, name in accesses(nodes)} | overridden | parser
    assert used - own == set(NATS_PY)
    assert not own & set(dir(Client())), "nats-py has come to use a name of ours"


async def test_the_installed_nats_py_has_every_internal_name() -> None:
    client = Client()
    owners = {
        "client": client,
        "transport": TcpTransport(),  # type: ignore[no-untyped-call]
        "subscription": Subscription(client),
        "parser": Parser(),
        "reader": asyncio.StreamReader(),
    }
    problems = []
    for name, (owner, expected) in NATS_PY.items():
        value = getattr(owners[owner], name, "missing")
        if inspect.ismethod(value):
            parameters = inspect.signature(value).parameters.values()
            bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
            found = str(inspect.Signature(bare))
        else:
            found = "missing" if value == "missing" else type(value).__name__
        if found != expected:
            problems.append(f"{owner}.{name} is {found}, expected {expected}")
    assert not problems, "\n".join(["the installed nats-py differs:", *problems])


def test_no_module_of_nats_py_drops_cancellations() -> None:
    """Those of Python 3.11 that drop them wait with `asyncio.wait_for`."""
    folder = Path(inspect.getfile(Client)).parent.parent
    waiting = [
        "nats." + ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if ".wait_for(" in path.read_text() and "object_store" not in path.name  # not used
    ]
    assert len(waiting) > 2
    for name in waiting:
        used = vars(importlib.import_module(name))["asyncio"].wait_for
        assert used is wait_for or sys.version_info >= (3, 12), name


def test_private_names_of_others_are_used_only_where_a_reason_is_given() -> None:
    """A name that our own code also defines is not recognized, unless it is accessed on a
    `client`."""
    texts = {
        str(path.relative_to(ROOT)): path.read_text()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    ours: set[str] = set()
    used: set[tuple[str, str, str]] = set()
    # Parsing takes long: first what may access a private name of another object, and then what has
    # one of the few names in its text whose definition is not among that.
    suspects = {path for path, text in texts.items() if ACCESS.search(text)}
    for path in suspects:
        nodes = list(ast.walk(ast.parse(texts[path])))
        ours.update(definitions(nodes))
        used.update((path, *access) for access in accesses(nodes))
    sought = {name for _, owner, name in used if owner not in ("self", "cls")} - ours
    names = re.compile(rf"\b(?:{'|'.join(sought)})\b")
    for path in texts.keys() - suspects:
        if names.search(texts[path]):
            ours.update(definitions(ast.walk(ast.parse(texts[path]))))
    found = {
        (path, name)
        for path, owner, name in used
        if path not in FASTPATH
        and name not in WITHOUT_BOUND
        and (
            (owner not in ("self", "cls") and name not in ours)
            or (owner == "client" and name in NATS_PY)
        )
    }
    assert found == {(path, name) for (_, path), names in OTHERS.items() for name in names}


@pytest.mark.parametrize(("dependency", "path"), OTHERS)
def test_private_names_of_others_exist(dependency: str, path: str) -> None:
    spec = find_spec(dependency)  # sounddevice cannot be imported without PortAudio
    assert spec is not None
    assert spec.origin is not None
    module = Path(spec.origin)
    sources = sorted(module.parent.rglob("*.py")) if module.stem == "__init__" else [module]
    defined = {name for source in sources for name in definitions(nodes_of(source))}
    assert OTHERS[dependency, path] <= defined


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(line) for group in groups for line in group]
    return {requirement.name.replace("-", "_"): requirement for requirement in found}


@pytest.mark.parametrize(
    "dependency", ["aiohttp", "nats_py", *sorted({name for name, _ in OTHERS})]
)
def test_a_dependency_whose_private_names_are_used_has_a_narrow_range(dependency: str) -> None:
    """The range ends with the minor release that was tried, and holds the installed one."""
    requirement = requirements()[dependency]
    [bound] = [Version(s.version) for s in requirement.specifier if s.operator == "<"]
    assert len(bound.release) == 2
    assert requirement.specifier.contains(version(requirement.name))
    last = Version(f"{bound.major}.{bound.minor - 1}")
    assert requirement.specifier.contains(last), f"{last} is the newest release that was tried"
