"""Names that the pages cite exist: modules, classes, methods, functions, tests."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

from docs.generate import ROOT, settings
from natterjack.settings import variables
from tests.statements import statements

from .pages import files, name, prose

ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"
_PROGRAMS = ("natterjack", "worker", "edge_capture", "gateway")
_OTHERS = {
    "Audio-Seq", "Audio-Pos", "Nats-Msg-Id", "Nats-Expected-Last-Subject-Sequence",
    "stt.audio.<key>", "STT_AUDIO", "TTS_TEXT", "tts.audio.<key>", "tts.played.<key>",
    "tts.text.<key>",
    "nak", "assigned", "failed", "handed_over", "malformed",
    "natterjack", "listen", "max_payload",
}  # fmt: skip
"""Words in code on the page of the architecture that are no names of the code."""


@cache
def members() -> dict[str, set[str]]:
    """The methods and attributes of every class, and the functions of every module, by name."""
    found: dict[str, set[str]] = defaultdict(set)
    for program in _PROGRAMS:
        for path in (ROOT / program).rglob("*.py"):
            tree = ast.parse(path.read_text())
            for node in statements(tree):
                if isinstance(node, ast.ClassDef):
                    found[node.name] |= _defined(node)
            found[path.stem] |= _defined(tree)
    return found


def _defined(scope: ast.ClassDef | ast.Module) -> set[str]:
    names = set()
    for node in scope.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@cache
def _functions() -> frozenset[str]:
    """The functions of the tests."""
    texts = (path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    return frozenset(re.findall(r"^ *(?:async )?def (test_\w+)", "\n".join(texts), flags=re.M))


def exists(cited: str) -> bool:
    """Whether what is cited is a path, a class, a method or a function of the programs."""
    cited = cited.removesuffix("()")
    if "/" in cited or cited.endswith(".py"):
        return (ROOT / cited).exists() or any((ROOT / "natterjack").glob(cited))
    owner, dot, member = cited.rpartition(".")
    if dot:
        return member in members().get(owner, ())
    return cited in members() or any(cited in names for names in members().values())


def cited(page: Path) -> list[str]:
    """The inline code of a page, in its order."""
    return re.findall(r"`([^`\n]+)`", prose(page.read_text()))


def test_the_architecture_cites_what_there_is() -> None:
    known = set().union(*map(variables, settings.models()))
    wrong = [c for c in cited(ARCHITECTURE) if c not in _OTHERS | known and not exists(c)]
    assert not wrong


def test_the_architecture_shows_every_package() -> None:
    text = ARCHITECTURE.read_text()
    for program in _PROGRAMS:
        for folder in [ROOT / program, *(ROOT / program).iterdir()]:
            if (folder / "__init__.py").exists() and folder.parent.name != "data":
                assert f"`{name(folder)}/`" in text, name(folder)


def test_methods_and_tests_that_pages_cite_exist() -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("*.py")}
    wrong = []
    for page in files(".md"):
        if page.name == "CHANGELOG.md":
            continue
        for one in cited(page):
            if re.fullmatch(r"test_\w+(?:\.py)?", one):
                found = one in _functions() or one in tests
            elif re.fullmatch(r"[A-Z][a-z]\w+\.[a-z_]\w+(?:\(\))?", one):
                found = exists(one)
            else:
                continue
            if not found:
                wrong.append(f"{name(page)}: {one}")
    assert not wrong


def test_a_name_that_is_gone_is_found() -> None:
    assert exists("Session.run")
    assert exists("worker/claim.py")
    assert not exists("Session._resume")
    assert not exists("worker/slots.py")
