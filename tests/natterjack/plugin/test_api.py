"""The public plugin API: its names, its dependencies, and the direction of imports."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.statements import statements

ROOT = Path(__file__).parents[3]
FOLDERS = sorted(
    path.parent
    for room in ("providers", "voices")
    for path in (ROOT / "worker" / room).glob("*/__init__.py")
)
SHARED = {
    "worker.providers.auto_reset",
    "worker.providers.estimate",
    "worker.providers.guard",
    "worker.providers.voice",
    "worker.providers.waiting",
    "worker.providers.wire",
}
"""Helpers that provider folders may import; a package of its own would bring them along."""

VENDOR = {
    **dict.fromkeys(
        ("deepgram_aura", "deepgram_flux", "deepgram_flux_voice", "deepgram_rest"),
        ("worker.providers.deepgram.",),
    ),
    "speechmatics_agent": ("worker.providers.speechmatics.",),
}
"""Folders that share the code of one vendor with another folder."""


def imported(path: Path) -> set[str]:
    """The modules that a file imports, by their full names, whether or not they exist."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import x` may import a module x.
            found |= {f"{module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_our_providers_import_what_any_plugin_may(folder: Path) -> None:
    own = ".".join([*folder.relative_to(ROOT).parts, ""])
    for path in folder.glob("*.py"):
        for name in imported(path):
            if name.startswith("worker"):
                module = name.rpartition(".")[0]
                allowed = name.startswith((own, *VENDOR.get(folder.name, ())))
                assert allowed or SHARED & {name, module}, f"{path}: {name}"
            assert not name.startswith(("edge_capture", "tests")), f"{path}: {name}"


def test_the_plugin_api_imports_neither_program() -> None:
    for path in (ROOT / "natterjack").rglob("*.py"):
        for name in imported(path):
            assert not name.startswith(("worker", "edge_capture", "tests")), f"{path}: {name}"


@pytest.mark.parametrize("module", ["natterjack.plugin", "natterjack.plugin.websocket"])
def test_every_exported_name_is_documented(module: str) -> None:
    exported = importlib.import_module(module)
    aliases = {"Encoding", "TurnKind", "ProviderEvent", "HandshakeErrors"}
    for name in exported.__all__:
        assert name in aliases or getattr(exported, name).__doc__, name


def without(module: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where `module` cannot be imported."""
    program = f"import sys; sys.modules[{module!r}] = None\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


@pytest.mark.process
@pytest.mark.parametrize("module", ["aiohttp", "numpy", "pytest"])
def test_the_interface_needs_only_the_base_installation(module: str) -> None:
    ran = without(module, "import natterjack.plugin")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "imports", "extra"),
    [
        ("aiohttp", "natterjack.plugin.websocket", "natterjack[worker]"),
        ("pytest", "natterjack.plugin.contract", "natterjack[plugin-test]"),
        ("pytest_asyncio", "natterjack.plugin.contract", "natterjack[plugin-test]"),
    ],
)
def test_a_missing_extra_is_named(module: str, imports: str, extra: str) -> None:
    ran = without(module, f"import {imports}")
    assert ran.returncode == 1
    assert extra in ran.stderr.splitlines()[-1]
