"""The findings of checks, as a table for people or as JSON for programs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence

from natterjack.process.table import table

from .finding import Finding

_STATES = {"ok": "ok", "warning": "warning", "failed": "FAILED", "skipped": "skipped"}


def report(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print the findings. Returns the exit status: 1 if something failed, else 0."""
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print(*lines(findings), sep="\n")
    return 1 if any(finding.state == "failed" for finding in findings) else 0


def lines(findings: Sequence[Finding]) -> list[str]:
    """The table of findings, each cure below what it is for, and a last line that sums up."""
    rows = []
    for finding in findings:
        rows.append([_STATES[finding.state], finding.check, finding.found])
        if finding.cure:
            rows.append(["", "", f"-> {finding.cure}"])
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    states = [finding.state for finding in findings]
    failures, warnings = states.count("failed"), states.count("warning")
    summary = f"{failures} of {len(findings)} checks failed" if failures else "nothing failed"
    summary += f", {warnings} with a warning" if warnings else ""
    return [*_wrapped(rows, room), "", summary]


def _wrapped(rows: list[list[str]], room: int | None) -> list[str]:
    """A table whose last column continues on further lines where the terminal ends."""
    if room is not None:
        taken = sum(max(len(row[n]) for row in rows) + 2 for n in (0, 1))
        width = max(20, room - taken)
        split: list[list[str]] = []
        for state, check, text in rows:
            parts = textwrap.wrap(text, width, subsequent_indent="   ") or [""]
            split.append([state, check, parts[0]])
            split += [["", "", part] for part in parts[1:]]
        rows = split
    return table(rows)


def seconds(text: str) -> float:
    """The type of a time limit as an argument of the command line."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.1 to 600")
    return value
