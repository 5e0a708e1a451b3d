"""Transcripts as files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.subjects import TOKEN_PATTERN
from natterjack.transcripts.files import (
    FORMATS,
    encode,
    file_name,
    folds_case,
    remove_leftovers,
    save,
)
from natterjack.transcripts.transcript import Transcript
from tests.natterjack.transcripts.events import Session
from tests.natterjack.transcripts.test_builder import built
from tests.searching import examples
from tests.waiting import bound

_TOKENS = st.from_regex(TOKEN_PATTERN, fullmatch=True) | st.sampled_from(
    ["CON", "con", "nul", "COM1", "-x", "--", "call-7", "Call-7", "lpt0"]
)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_ends_with_a_line_end_or_is_empty(form: str) -> None:
    whole = encode(built([Session("session-a").final("Good morning.", 0, 1)]), form)
    assert whole.endswith("\n")
    empty = encode(Transcript(tenant="acme", conversation="call-7"), form)
    assert empty == "" or empty.endswith("\n")


@given(_TOKENS, _TOKENS, st.booleans())
@examples(300)
def test_each_token_has_a_file_name_of_its_own(one: str, other: str, folds: bool) -> None:
    names = [file_name(token, folds_case=folds) for token in (one, other)]
    seen = [name.lower() if folds else name for name in names]
    assert (seen[0] == seen[1]) == (one == other)


@given(_TOKENS)
@examples(300)
def test_file_names_have_no_special_meaning(token: str) -> None:
    name = file_name(token)
    assert not name.startswith(("-", "."))
    assert name.upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT0"}
    assert Path(name).name == name


def test_a_file_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "call-7.txt"
    assert save("Grüße\n", path)
    os.utime(path, (1, 1))
    assert not save("Grüße\n", path)
    assert path.stat().st_mtime == 1
    assert save("more\n", path)
    assert path.read_bytes() == b"more\n"
    assert [file.name for file in tmp_path.iterdir()] == ["call-7.txt"]


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save("text", tmp_path / "missing" / "call-7.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        save("text", tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


_WRITER = """
import sys
from pathlib import Path
from natterjack.transcripts.files import save
print("ready", flush=True)
n = 0
while True:
    n += 1
    save(f"{n % 10}" * 1_000_000, Path(sys.argv[1]))
"""


@pytest.mark.process
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "call-7.txt"
    save("0" * 1_000_000, path)
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        before = path.stat().st_ino
        end = time.monotonic() + bound(10)
        while path.stat().st_ino == before and time.monotonic() < end:
            time.sleep(0.001)  # between two looks
        assert path.stat().st_ino != before
        writer.kill()
        writer.wait()
        writer.stdout.close()
        content = path.read_text()
        assert content == content[0] * 1_000_000


def test_what_a_killed_process_has_left_is_removed_later(tmp_path: Path) -> None:
    old, new, other = (
        tmp_path / name for name in (".natterjack-1.part", ".natterjack-2.part", "x.part")
    )
    for file in (old, new, other):
        file.touch()
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".natterjack-2.part", "x.part"]


def test_whether_capital_letters_count_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert folds_case(tmp_path) == (tmp_path / "A").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
