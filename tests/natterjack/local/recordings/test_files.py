"""Which files are transcribed, and where their transcripts go."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from natterjack.errors import UsageError
from natterjack.local.recordings.files import (
    Found,
    Recording,
    check,
    check_writable,
    examine,
    with_outputs,
)
from tests.edge_capture.program import tone


def outputs(recordings: list[Recording], directory: Path | None, *formats: str) -> list[str]:
    found = with_outputs(recordings, directory, formats or ("txt",))
    return [str(path) for each in found for path in each.outputs.values()]


def test_transcripts_are_beside_the_recordings_or_in_a_folder() -> None:
    files = [Recording(Path("a/x.wav")), Recording(Path("b/y.mp3"))]
    assert outputs(files, None) == ["a/x.txt", "b/y.txt"]
    assert outputs(files, Path("out"), "srt", "json") == [
        "out/x.srt", "out/x.json", "out/y.srt", "out/y.json",
    ]  # fmt: skip


def test_folders_below_a_folder_are_kept() -> None:
    files = [
        Recording(Path("calls/jan/x.wav"), folder=Path("calls")),
        Recording(Path("calls/feb/x.wav"), folder=Path("calls")),
    ]
    assert outputs(files, Path("out")) == ["out/jan/x.txt", "out/feb/x.txt"]
    assert outputs(files, None) == ["calls/jan/x.txt", "calls/feb/x.txt"]


def test_names_that_would_be_the_same_are_longer() -> None:
    files = [Recording(Path("x.wav")), Recording(Path("x.mp3")), Recording(Path("y.wav"))]
    assert outputs(files, None) == ["x.wav.txt", "x.mp3.txt", "y.txt"]


def test_a_transcript_never_replaces_a_recording() -> None:
    """An audio file may be called anything."""
    assert outputs([Recording(Path("x.txt"))], None) == ["x.txt.txt"]


def test_two_files_of_the_same_name_cannot_go_into_one_folder() -> None:
    files = [Recording(Path("a/x.wav")), Recording(Path("b/x.wav"))]
    with pytest.raises(
        UsageError, match=r"a/x\.wav and b/x\.wav would both become out/x\.wav\.txt"
    ):
        outputs(files, Path("out"))


def test_folders_for_transcripts_are_checked_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recording = Recording(Path("x.wav"))
    check_writable(with_outputs([recording], tmp_path / "new" / "deep", ["txt"]))
    with pytest.raises(UsageError, match="file is not a folder; name another one with -o"):
        check_writable(with_outputs([recording], tmp_path / "file" / "deep", ["txt"]))


@pytest.mark.process
async def test_the_recordings_of_a_folder_are_found_by_their_content(tmp_path: Path) -> None:
    samples = tone(440, 1, 16000)
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    for name in ("b.wav", "sub/a.dat", "sub/.hidden/c.wav", ".d.wav"):
        soundfile.write(tmp_path / name, samples, 16000, format="WAV")
    (tmp_path / "b.txt").write_text("an earlier transcript")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "empty.wav").touch()
    found = await examine([tmp_path])
    assert [each.name for each in found.recordings] == ["b.wav", "sub/a.dat"]
    assert [each.seconds for each in found.recordings] == [1, 1]
    assert found.others == [tmp_path / "empty.wav", tmp_path / "notes.pdf"]
    assert not found.problems


def test_of_files_that_are_no_recordings_the_first_are_named() -> None:
    names = [Path(f"calls/{name}.pdf") for name in "abcde"]
    assert Found([], [], names[:3]).others_text() == "calls/a.pdf, calls/b.pdf, calls/c.pdf"
    assert Found([], [], names).others_text() == "calls/a.pdf, calls/b.pdf, calls/c.pdf and 2 more"


@pytest.mark.process
async def test_files_that_were_named_are_problems_if_they_are_no_recordings(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 1, 16000), 16000)
    (tmp_path / "notes.txt").write_text("words")
    found = await examine([tmp_path / "a.wav", tmp_path / "notes.txt", tmp_path / "none.mp4"])
    assert [each.name for each in found.recordings] == [str(tmp_path / "a.wav")]
    assert len(found.problems) == 2
    assert found.problems[0].startswith(f"{tmp_path / 'notes.txt'} is not a readable audio file")
    assert found.problems[1] == f"{tmp_path / 'none.mp4'}: No such file or directory"
    await check(tmp_path / "a.wav")
    with pytest.raises(UsageError, match="No such file"):
        await check(tmp_path / "none.mp4")


@pytest.mark.process
async def test_names_that_are_options_or_no_text(tmp_path: Path) -> None:
    odd = tmp_path / "-v\udcff\n.wav"
    with odd.open("wb") as file:
        soundfile.write(file, tone(440, 1, 16000), 16000, format="WAV")
    found = await examine([odd])
    assert [each.path for each in found.recordings] == [odd]
