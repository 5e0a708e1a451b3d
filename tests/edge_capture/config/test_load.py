from __future__ import annotations

import re
from datetime import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_capture.config.load import MAX_BYTES, Config, ConfigError, parse_config, read_config
from edge_capture.config.models import (
    KINDS,
    AgentTable,
    Defaults,
    DeliveryTable,
    FileTable,
    KeepTable,
    MicrophoneTable,
    NatsTable,
    RotateTable,
    SpoolTable,
    StreamTable,
    Table,
)


def parse(text: str) -> Config:
    return parse_config(text.encode(), "edge.toml", host="pc-7")


WHOLE = """
agent = "room-12"
tenant = "acme"

[nats]
url = "tls://nats.example.org"
creds = "/etc/natterjack/edge.creds"

[spool]
directory = "/var/lib/natterjack"
seconds = 3600

[defaults]
language = "de-CH"
provider = ["deepgram", "sherpa"]
labels = { building = "3", floor = "1" }
rotate = { at = ["08:00", 13:30:00], silence_minutes = 10 }
time_zone = "Europe/Berlin"

[[sources]]
name = "table"
kind = "microphone"
device = ["Jabra", "USB"]
labels = { floor = "2" }
conversation = "{agent}-%Y%m%d-%H"

[[sources]]
name = "stage"
kind = "microphone"
split_channels = ["chair", "guest"]
language = "fr"
rotate = { every_minutes = 60 }

[[sources]]
name = "camera"
kind = "stream"
url_file = "/etc/natterjack/camera.url"
"""


def test_a_source_has_what_the_defaults_and_it_say() -> None:
    config = parse(WHOLE)
    table, stage, camera = config.sources
    assert (config.agent, config.tenant) == ("room-12", "acme")
    assert config.nats.url == "tls://nats.example.org"
    assert config.spool.directory == Path("/var/lib/natterjack")
    assert isinstance(table, MicrophoneTable)
    assert table.device == ("Jabra", "USB")
    assert table.provider == ("deepgram", "sherpa")
    assert table.labels == {"building": "3", "floor": "2"}
    assert table.rotate is not None
    assert table.rotate.at == (time(8), time(13, 30))
    assert stage.speakers == ("chair", "guest")
    assert stage.language == "fr"
    assert stage.rotate is not None
    assert (stage.rotate.every_minutes, stage.rotate.at) == (60, ())
    assert isinstance(camera, StreamTable)
    assert camera.language == "de-CH"


def test_a_file_may_say_little() -> None:
    config = parse('[[sources]]\nname = "a"\nkind = "file"\npath = "a.wav"\nspeed = "max"')
    assert (config.agent, config.tenant) == ("pc-7", "default")
    assert isinstance(config.sources[0], FileTable)
    assert config.sources[0].speed == "max"
    assert config.sources[0].conversation == "{source}-{time}"


def test_a_variable_or_flag_precedes_the_file() -> None:
    config = parse_config(WHOLE.encode(), "x", host="pc-7", agent="hall", tenant="umbrella")
    assert (config.agent, config.tenant) == ("hall", "umbrella")


A = '[[sources]]\nname = "a"\nkind = "microphone"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no [[sources]]"),
        ("x = [", "not valid TOML"),
        ("tennant = 'a'\n" + A, "tennant is not a key; did you mean tenant?"),
        ("source = []\n" + A, "source is not a key; did you mean sources?"),
        ("agent = 'a b'\n" + A, "agent: use 1 to 64 of the characters"),
        ("nats = 'x'\n" + A, "nats is a table: write [nats]"),
        ("[nats]\nurls = 'x'\n" + A, "[nats]: urls is not a key; did you mean url?"),
        ("[nats]\npassword = 'x'\n" + A, "[nats]: password is not a key; did you mean passw"),
        ("[defaults]\nlangage = 'x'\n" + A, "[defaults]: langage is not a key; did you mean lang"),
        ("[defaults]\nchunk_ms = 5\n" + A, "[defaults]: chunk_ms: Input should be greater"),
        ("sources = 3", "write [[sources]]"),
        ("[sources]\nname='a'", "write [[sources]]"),
        ('[[sources]]\nname = "a"', '[[sources]] "a": kind is missing (microphone, file'),
        ('[[sources]]\nkind = "mic"', "[[sources]] 1: kind 'mic' is not known"),
        ('[[sources]]\nkind = "microfone"', "did you mean microphone?"),
        ('[[sources]]\nkind = "microphone"', "[[sources]] 1: name: it is missing"),
        ('[[sources]]\nname = "a"\nkind = "file"', '"a": path: it is missing'),
        (A + "devise = 'x'", '"a": devise is not a key; did you mean device?'),
        (A + "url = 'x'", '"a": url is a key of sources of kind stream'),
        (A + "language = 3", '"a": language: Input should be a valid string'),
        (A + "device = []", '"a": device: Value should have at least 1 item'),
        (A + "split_channels = ['x', 'x']", "each channel needs a speaker of its own"),
        (A + "speaker = 'a.b'", '"a": speaker: use 1 to 64'),
        (A + "conversation = '%A'", "\"a\": conversation: '%A' is not possible"),
        (A + "time_zone = 'Mars/Olympus'", "there is no time zone 'Mars/Olympus'"),
        (A + "rotate = { evry_minutes = 3 }", "rotate.evry_minutes is not a key; did you mean ev"),
        (A + "rotate = { at = ['8 am'] }", "rotate.at: '8 am' is not a time of day"),
        (A + "rotate = { at = ['08:00+02:00'] }", "is not a time of day"),
        (A + 'start = "no"', '"a": start: write true or false, without quotes'),
        (A + "captions = 1", '"a": captions: write true or false'),
        (A + 'chunk_ms = "80"', '"a": chunk_ms: write a whole number, without quotes'),
        (A + "buffer_seconds = true", '"a": buffer_seconds: write a number'),
        (A + "device_channels = ['1']", '"a": device_channels.0: write a whole number'),
        (A + "rotate = { every_minutes = '60' }", "rotate.every_minutes: write a whole number"),
        (A.replace("microphone", "file") + "path = 'a'\nspeed = '2'", '"a": speed'),
        ("[spool]\nbytes = '99999'\n" + A, "[spool]: bytes: write a whole number"),
        (A + "rotate = { every_minutes = 0 }", "rotate.every_minutes: Input should be greater"),
        (A + A, '"a": another source has the same name'),
        (
            A + "conversation = 'x'\n" + A.replace('"a"', '"b"') + "conversation = 'x'",
            '"b": its conversation and speaker are those of "a"',
        ),
        ('[[sources]]\nname = "s"\nkind = "stream"', "it needs either url or url_file"),
        (
            "".join(f'[[sources]]\nname = "{n}"\nkind = "pipe"\npath = "-"\n' for n in ("p", "q")),
            "p and q: only one source can be standard input",
        ),
        (
            "".join(
                f'[[sources]]\nname = "{n}"\nkind = "pipe"\npath = "{path}"\n'
                for n, path in (("p", "/run/a"), ("q", "/run/b"), ("r", "/run/./a"))
            ),
            "p and r: only one source can read the pipe /run/a",
        ),
        (
            '[[sources]]\nname = "a"\nkind = "file"\npath = "\\u0000"',
            '"a": path: no path has a null',
        ),
        ("defaults = 3\n" + A, "defaults is a table: write [defaults]"),
        ("[[sources]]\nname = 2026-12-31\nkind = 'microphone'", '"2026-12-31": name: '),
        ("x = " + "9" * 5000, "a number is too long"),
        ("x = " + "[" * 100_000, "nested too deeply"),
        (A * 65, "at most 64 are possible"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert str(error.value).startswith("edge.toml: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_no_text_or_truth_counts_as_a_number_and_no_text_or_number_as_a_truth() -> None:
    """Each key of each table, so that a new one is not forgotten."""
    numbers, switches = 0, 0
    tables: list[type[Table]] = [Defaults, NatsTable, SpoolTable, DeliveryTable, KeepTable]
    tables += [RotateTable, AgentTable, *KINDS.values()]
    for table in tables:
        for key, field in table.model_fields.items():
            any_of = str(field.annotation)
            for python, wrong in (
                ("bool", "true"),
                ("int", "80"),
                ("float", "80"),
                ("float", True),
            ):
                if not re.search(rf"\b{python}\b", any_of):
                    continue
                numbers, switches = numbers + (python != "bool"), switches + (python == "bool")
                value = [wrong] if "tuple" in any_of else wrong
                with pytest.raises(ValidationError) as error:
                    table.model_validate({key: value})
                assert key in {each["loc"][0] for each in error.value.errors()}, (table, key)
    assert numbers > 30
    assert switches > 5


def test_a_whole_number_may_be_written_as_toml_writes_large_ones() -> None:
    config = parse("[spool]\nbytes = 2e9\n" + A + "chunk_ms = 80.0")
    assert (config.spool.bytes, config.sources[0].chunk_ms) == (2_000_000_000, 80)
    with pytest.raises(ConfigError, match=r'"a": chunk_ms: write a whole number'):
        parse(A + "chunk_ms = 80.5")


def test_what_is_wrong_in_the_defaults_is_said_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse("[defaults]\nchunk_ms = 5\n" + A + A.replace('"a"', '"b"'))
    assert str(error.value).count("chunk_ms") == 1


def test_many_problems_are_summed_up() -> None:
    with pytest.raises(ConfigError, match="; and 5 more"):
        parse("".join(f"key{n} = 1\n" for n in range(10)) + A)


def test_a_key_that_the_defaults_have_for_other_kinds_is_no_problem() -> None:
    with pytest.raises(ConfigError, match=r"\[defaults\]: device is not a key"):
        parse("[defaults]\ndevice = 'x'\n" + A)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    with pytest.raises(ConfigError, match=r"no file .*edge\.toml: .* --config"):
        read_config(path, host="h")
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        read_config(path, host="h")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(path, host="h")


def test_only_a_change_of_the_input_needs_a_gap() -> None:
    (before,) = parse(A).sources
    for text, same in (
        (A, True),
        (A + "language = 'en'\nrotate = { every_minutes = 60 }", True),
        (A + "device = 'x'", False),
        (A + "chunk_ms = 100", False),
        (A + "split_channels = ['x', 'y']", False),
        (A + "speaker = 'x'", True),
        (A.replace("microphone", "file") + "path = 'a'", False),
    ):
        assert before.same_input(parse(text).sources[0]) is same, text


def test_what_only_a_restart_can_change_is_named() -> None:
    before = parse(WHOLE)
    assert before.fixed_changes(parse(WHOLE.replace('"fr"', '"it"'))) == []
    changed = parse(WHOLE.replace("acme", "umbrella").replace("3600", "60"))
    assert before.fixed_changes(changed) == ["tenant", "spool"]


@pytest.mark.parametrize(("name", "tenant"), [("edge.toml", "acme"), ("deb/edge.toml", "default")])
def test_the_examples_are_valid(name: str, tenant: str) -> None:
    config = read_config(Path(__file__).parents[3] / "deploy" / name, host="h")
    assert config.tenant == tenant
