"""Every example of ffmpeg asks for the format that the natterjack-edge beside it expects. Raw audio
does not say what it is: a wrong rate plays it slower or faster, without an error."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from edge_capture.parser import make_parser
from edge_capture.settings import StdinSettings
from natterjack.audio import AudioFormat, Encoding
from natterjack.settings import load

from .pages import files, name

_ENCODINGS: dict[str, Encoding] = {"s16le": "linear16", "mulaw": "mulaw", "alaw": "alaw"}
_FFMPEG = re.compile(r"\bffmpeg (?=[^|]*-i )[^|]*")
_EDGE = re.compile(r"natterjack-edge (stdin.*?)(?= \d?<|[|>`\"'\\]|$)", re.M)
FILES = [
    path
    for path in files(".md", ".py", ".yaml", ".yml", ".service", ".sh", ".toml", ".txt")
    if path != Path(__file__)
    and "ffmpeg" in (text := path.read_text())
    and (_FFMPEG.search(text) or "command: [ffmpeg" in text)
]


def written(words: list[str]) -> AudioFormat | None:
    """Return the format that ffmpeg writes; None if one of the three options is missing."""
    options = dict(pairwise(words))
    try:
        return AudioFormat(_ENCODINGS[options["-f"]], int(options["-ar"]), int(options["-ac"]))
    except KeyError:
        return None


def expected(edge: str) -> AudioFormat:
    """Return the format that `natterjack-edge` reads with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        for field in StdinSettings.model_fields:
            patch.delenv(f"EDGE_STDIN_{field.upper()}", raising=False)
        settings = load(StdinSettings, make_parser().parse_args(shlex.split(edge)))
    return AudioFormat(settings.encoding, settings.sample_rate, settings.channels)


def examples(path: Path) -> list[tuple[list[str], str]]:
    """The examples in a file: the words of each ffmpeg, and the arguments of its edge."""
    text = path.read_text()
    if path.suffix in (".yaml", ".yml"):
        (edge,) = _EDGE.findall(text)
        return [
            (yaml.safe_load(command), edge)
            for command in re.findall(r"command: (\[ffmpeg\b.*\])", text)
        ]
    found = []
    for line in text.splitlines():
        for program in _FFMPEG.findall(line):
            edge = _EDGE.search(line)
            assert edge, f"{name(path)}: no edge beside {line.strip()!r}"
            found.append((shlex.split(program), edge[1]))
    return found


def test_the_places_that_newcomers_copy_from_are_found() -> None:
    assert {
        "edge_capture/parser.py",
        "edge_capture/sources/stdin.py",
        "docs/reference/commands.md",
        "docs/how-to/run-an-edge-as-a-service.md",
        "helm/natterjack/ci/edge-deployment-values.yaml",
    } <= {name(path) for path in FILES if examples(path)}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_ffmpeg_writes_what_the_edge_reads(path: Path) -> None:
    for words, edge in examples(path):
        assert written(words) == expected(edge), f"{shlex.join(words)} | natterjack-edge {edge}"


def test_examples_that_are_wrong_are_found() -> None:
    edge = "stdin --sample-rate 48000 --channels 2"
    assert written(shlex.split("ffmpeg -i URL -f s16le -")) is None
    assert written(shlex.split("ffmpeg -i URL -f s16le -ar 48000 -ac 1 -")) != expected(edge)
    assert written(shlex.split("ffmpeg -i URL -f s16le -ar 48000 -ac 2 -")) == expected(edge)
    assert expected("stdin") == AudioFormat("linear16", 16_000, 1)
