"""docs/reference/plugin-api.md and python-api.md: public names, from the sources' docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import natterjack
import natterjack.plugin

from . import ROOT
from .markdown import cell, code, heading, table

_ELSEWHERE = {
    "natterjack.events": "events.md",
    "natterjack.control": "events.md",
    "natterjack.spec": "events.md",
    "natterjack.settings": "settings.md",
    "natterjack.transcripts.model": "transcript-json.md",
    "natterjack.values": "events.md",
    "natterjack.voice.control": "events.md",
    "natterjack.voice.events": "events.md",
    "natterjack.voice.spec": "events.md",
}
"""Modules whose names another page shows."""
_UNIONS = {
    "AnyEvent": "natterjack.decoding",
    "Event": "natterjack.events",
    "Marker": "natterjack.consume.markers",
    "VoiceEvent": "natterjack.voice.events",
}
"""Exported unions, which do not know their modules."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _doc(text: str | None) -> str:
    """A docstring as Markdown. A tree of errors becomes a block of code."""
    if not text:
        return ""
    parts = []
    for part in inspect.cleandoc(text).split("\n\n"):
        parts.append(f"```text\n{part}\n```" if "├──" in part else part.replace("::", ":"))
    return "\n\n".join(parts) + "\n"


def _signature(function: Function) -> str:
    arguments = ast.unparse(function.args)
    for first in ("self, ", "cls, ", "self", "cls"):
        if arguments.startswith(first):
            arguments = arguments.removeprefix(first)
            break
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    prefix = "async " if isinstance(function, ast.AsyncFunctionDef) else ""
    if any("asynccontextmanager" in ast.unparse(d) for d in function.decorator_list):
        prefix = "async with "
    if any(ast.unparse(d) == "property" for d in function.decorator_list):
        return f"{function.name}{returns}"
    return f"{prefix}{function.name}({arguments}){returns}"


def _attributes(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Each annotated public attribute, with the docstring below it."""
    for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if statement.target.id.startswith("_"):
                continue
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = str(following.value.value)
            annotation = ast.unparse(statement.annotation)
            if annotation.startswith("Annotated["):
                annotation, text = _described(statement.annotation)
            if annotation.startswith("ClassVar["):
                annotation = annotation.removeprefix("ClassVar[").removesuffix("]")
            shown = f"{statement.target.id}: {annotation}"
            simple = statement.value is not None and not isinstance(statement.value, ast.Call)
            if simple:
                shown += f" = {ast.unparse(statement.value)}"  # type: ignore[arg-type]
            yield code(shown), cell(inspect.cleandoc(text))


def _described(annotation: ast.expr) -> tuple[str, str]:
    """The type in `Annotated[type, Field(description=...)]`, and the description."""
    assert isinstance(annotation, ast.Subscript)
    assert isinstance(annotation.slice, ast.Tuple)
    shown, *others = annotation.slice.elts
    for field in others:
        for argument in field.keywords if isinstance(field, ast.Call) else ():
            if argument.arg == "description" and isinstance(argument.value, ast.Constant):
                return ast.unparse(shown), str(argument.value.value)
    return ast.unparse(shown), ""


def _function(function: Function, level: str) -> str:
    text = _doc(ast.get_docstring(function, clean=True))
    return f"{level} {function.name}\n\n```python\n{_signature(function)}\n```\n\n{text}"


def _class(node: ast.ClassDef) -> str:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts = [
        f"### {node.name}\n",
        f"```python\nclass {node.name}{f'({bases})' * bool(bases)}\n```\n",
    ]
    parts.append(_doc(ast.get_docstring(node)))
    if rows := list(_attributes(node.body)):
        parts.append(table(("attribute", ""), rows))
    rows = []
    for member in node.body:
        if isinstance(member, Function):
            text = ast.get_docstring(member)
            if member.name.startswith("_") or (member.name.startswith("test_") and not text):
                continue
            rows.append((code(_signature(member)), cell(text or "")))
    if rows:
        parts.append(table(("method", ""), rows))
    return "\n".join(part for part in parts if part)


def _public(tree: ast.Module, names: Iterable[str] | None = None) -> list[str]:
    shown = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _wanted(node.name, names):
            shown.append(_class(node))
        elif isinstance(node, Function) and _wanted(node.name, names) and not _overload(node):
            shown.append(_function(node, "###"))
    return shown


def _overload(function: Function) -> bool:
    return any(ast.unparse(d) == "overload" for d in function.decorator_list)


def _wanted(name: str, names: Iterable[str] | None) -> bool:
    return not name.startswith("_") if names is None else name in names


def _tree(module: str) -> ast.Module:
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text())


def plugin_modules() -> list[str]:
    """The modules of the plugin API."""
    folder = Path(inspect.getfile(natterjack.plugin)).parent
    names = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
    names += [path.parent.name for path in folder.glob("*/__init__.py")]
    order = ["provider", "base", "errors", "websocket", "contract"]
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    return [f"natterjack.plugin.{name}" for name in names]


def plugin_page() -> str:
    """The plugin API."""
    parts = [
        heading(
            "Plugin API",
            "the docstrings of `natterjack.plugin`",
            "What the author of a provider imports. "
            "[Write a provider](../how-to/write-a-provider.md) has a whole example.",
        )
    ]
    for module in plugin_modules():
        tree = _tree(module)
        parts.append(f"## {module}\n\n{_doc(ast.get_docstring(tree))}")
        parts += _public(tree)
        # A package exports what its modules define.
        for path in sorted((ROOT / Path(*module.split("."))).glob("[a-z]*.py")):
            parts += _public(_tree(f"{module}.{path.stem}"))
    return "\n".join(parts)


def python_page() -> str:
    """The API for programs that read transcripts or speak."""
    parts = [
        heading(
            "Python API",
            "the docstrings of what `natterjack` exports",
            "`pip install natterjack` brings it. [Read transcripts](../how-to/read-transcripts.md) "
            "and [speak](../how-to/speak.md) show it in use.",
        )
    ]
    modules: dict[str, list[str]] = {}
    for name in natterjack.__all__:
        modules.setdefault(module_of(name), []).append(name)
    elsewhere = []
    for module, names in modules.items():
        if module in _ELSEWHERE:
            elsewhere += [(f"`natterjack.{name}`", f"[{p}]({p})") for name in names
                          if (p := _ELSEWHERE[module])]  # fmt: skip
            continue
        parts.append(f"## {module}\n\n{_doc(ast.get_docstring(_tree(module)))}")
        parts += _public(_tree(module), names)
    parts.append("## Models\n\n" + table(("name", "described in"), sorted(elsewhere)))
    return "\n".join(parts)


def module_of(name: str) -> str:
    """The module that defines a name which `natterjack` exports."""
    value = getattr(natterjack, name)
    if inspect.ismodule(value):
        return value.__name__
    for union, module in _UNIONS.items():
        if value is getattr(natterjack, union):
            return module
    return str(getattr(value, "__module__", ""))
