"""Commands, settings and code in the pages are accepted by the programs that they are for."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import re
import runpy
import shlex
import sys
import warnings
from pathlib import Path

import pytest

import natterjack
from docs.generate import ROOT, commands, settings
from natterjack.process.variables import DEPLOYMENT
from natterjack.settings import variables

from .pages import blocks, files, name, prose

PAGES = [
    path
    for path in files(".md")
    if path.name != "CHANGELOG.md" and "reference/commands.md" not in str(path)
]
_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
_PASSED_ON = {
    "demo": ["natterjack", "demo"],
    "up": ["natterjack", "up"],
    "soak": ["python", "-m", "tests.faults.soak"],
    "bench": ["python", "-m", "bench"],
}
"""The command to which a target of the Makefile passes ARGS."""
_WRAPPERS = {"exec", "sudo", "time"}


class _ParsedError(Exception):
    """The arguments are right: nothing more is run."""


def command_lines(page: Path) -> list[list[str]]:
    """The commands in the page's shell blocks and inline code whose program is ours."""
    text = page.read_text()
    indented = [
        line.strip() for line in re.sub(r"\\\n +", "", text).splitlines() if line.startswith("    ")
    ]
    lines = [*"\n".join(blocks(text, "sh", "bash")).replace("\\\n", " ").splitlines(), *indented]
    lines += re.findall(r"`([^`\n]+)`", prose(text))
    found = []
    for line in lines:
        for part in _split(line):
            words = [word for word in part if not re.fullmatch(r"[A-Z_]+=.*", word)]
            while words and words[0] in _WRAPPERS:
                words = words[1:]
            if any(word.startswith("$") for word in words):
                continue  # a loop's variable
            if words and (program := words[0].rpartition("/")[2]) in {
                *commands.parsers(),
                "make",
                "python",
            }:
                found.append([program, *words[1:]])
    return found


def _split(line: str) -> list[list[str]]:
    """The simple commands of a line: split at pipes and lists, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # prose that has a quotation mark
        return []
    parts: list[list[str]] = [[]]
    skip = False
    for word in words:
        if set(word) <= set("|&;()"):
            parts.append([])
        elif set(word) <= set("<>&"):
            skip = True
        elif skip:
            skip = False
        elif word in ("do", "then", "done", "if", "while"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _run(module: str, arguments: list[str]) -> str | None:
    """Run a module up to the point where it has parsed its arguments; what it complains of."""
    if importlib.util.find_spec(module) is None:
        return f"there is no module {module}"
    if not arguments:
        return None
    parse = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, *given: object, **named: object) -> None:
        parse(self, *given, **named)
        raise _ParsedError

    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors):
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        patch.setattr(sys, "argv", [module, *arguments])
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # another test has imported it
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except _ParsedError:
            return None
        except SystemExit as ended:
            return None if ended.code == 0 else errors.getvalue()
    return f"{module} takes no arguments"


def problem(words: list[str]) -> str | None:
    """Describe the error in a command, or return None."""
    program, *arguments = words
    if program == "python":
        if arguments[:1] == ["-m"] and (arguments[1:2] or [""])[0].partition(".")[0] in {
            "tests", "bench", "docs", "deploy", "natterjack", "worker", "edge_capture", "gateway",
        }:  # fmt: skip
            return _run(arguments[1], arguments[2:])
        return None
    if program == "make":
        given = dict(a.split("=", 1) for a in arguments if "=" in a)
        for target in (a for a in arguments if "=" not in a):
            if target not in _TARGETS:
                return f"the Makefile has no target {target}"
            if target in _PASSED_ON and "ARGS" in given:
                return problem([*_PASSED_ON[target], *shlex.split(given["ARGS"])])
        return None
    arguments = [argument for argument in arguments if argument not in ("...", "…")]
    parser = commands.parsers()[program]
    if " ".join(["", *arguments]) in {found for found, _, _ in commands.walk("", parser)}:
        return None  # a command that is only named
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(arguments)
    except SystemExit as ended:
        if ended.code:
            return errors.getvalue().strip().rpartition("\n")[2]
    return None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_accepted(page: Path) -> None:
    """A command in running text may leave out arguments that are required."""
    text = page.read_text()
    problems = {}
    for words in command_lines(page):
        found = problem(words)
        if found and not ("are required" in found and f"`{' '.join(words)}`" in text):
            problems[" ".join(words)] = found
    assert not problems


def test_wrong_commands_are_found() -> None:
    assert problem(["natterjack", "sessions", "--no-such-flag"])
    assert problem(["natterjack-edge", "fly"])
    assert problem(["make", "coffee"])
    assert problem(["make", "soak", "ARGS=--no-such-flag"])
    assert problem(["python", "-m", "bench.no_such_module"])
    assert problem(["python", "-m", "bench.scale", "--no-such-flag"])
    assert _split("A=1 natterjack tail | jq . && natterjack up > log") == [
        ["A=1", "natterjack", "tail"], ["jq", "."], ["natterjack", "up"],
    ]  # fmt: skip


_VARIABLE = re.compile(r"\b(?:WORKER|EDGE|NATTERJACK|NATS)_[A-Z][A-Z_]*[A-Z]\b")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_variables_are_settings(page: Path) -> None:
    known = set().union(*map(variables, settings.models()))
    found = set(_VARIABLE.findall(page.read_text()))
    assert found <= known | DEPLOYMENT


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles_and_names_what_there_is(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        if "reference" in page.parts or "tests" in page.parts:
            continue  # signatures and sketches
        compile(block, str(page), "exec")
        for attribute in re.findall(r"\bnatterjack\.([a-zA-Z_]\w*)", block):
            if not re.search(rf"(?:from|import) natterjack\.{attribute}", block):
                assert hasattr(natterjack, attribute), attribute


def test_paths_of_the_repository_exist() -> None:
    """Paths in inline code, such as `deploy/tls.sh` or `tests/faults/`."""
    tops = "worker|edge_capture|natterjack|tests|deploy|helm|bench|docs"
    problems = []
    for page in PAGES:
        if "generated" in page.read_text()[:400].lower() and "reference" in page.parts:
            continue
        for path in re.findall(rf"`((?:{tops})/[\w./-]*)`", prose(page.read_text())):
            if not os.path.exists(ROOT / path) and not path.startswith(
                ("deploy/secrets", "deploy/data", "deploy/.env")
            ):
                problems.append(f"{name(page)}: {path}")
    assert not problems
