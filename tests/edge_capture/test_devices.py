from __future__ import annotations

import pytest

from edge_capture.errors import SourceError
from edge_capture.settings import MicrophoneSettings
from edge_capture.sources import devices
from edge_capture.sources.choice import (
    LOUDSPEAKER,
    MICROPHONE,
    Ambiguous,
    Device,
    choose_preferred,
    reselect_device,
    select_device,
)


def device(index: int, name: str, host: str = "ALSA", *, default: bool = False) -> Device:
    return Device(index, name, host, 2, 48_000, default)


DEVICES = [device(0, "pulse"), device(1, "USB headset"), device(2, "default", default=True)]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(None, 2), ("0", 0), ("1", 1), ("USB headset", 1), ("HEAD", 1), ("pulse", 0)],
)
def test_a_device_is_selected_by_index_or_name(wanted: str | None, index: int) -> None:
    assert select_device(DEVICES, wanted).index == index


def test_without_a_default_the_first_device_is_used() -> None:
    assert select_device(DEVICES[:2], None).index == 0


def test_a_whole_name_takes_precedence_over_a_part() -> None:
    devices = [device(0, "mic two"), device(1, "mic")]
    assert select_device(devices, "mic").index == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("webcam", "no microphone is named 'webcam'; available: 0 pulse, 1 USB headset, 2 default"),
        ("99", "no microphone is named '99'"),
        ("ul", "several microphones match 'ul'; use a whole name or an index: 0 pulse, 2 default"),
    ],
)
def test_a_wrong_name_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(SourceError) as error:
        select_device(DEVICES, wanted)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("wanted", [None, "headset", "4"])
def test_a_lost_device_is_found_by_its_name_at_any_index(wanted: str | None) -> None:
    assert reselect_device(DEVICES, device(4, "USB headset"), wanted).index == 1


def test_the_same_name_of_another_host_api_is_another_device() -> None:
    devices = [device(0, "mic", "OSS"), device(1, "other", default=True)]
    assert reselect_device(devices, device(0, "mic", "ALSA"), None).index == 1


def test_a_lost_device_is_replaced_by_the_one_that_the_setting_names() -> None:
    assert reselect_device(DEVICES, device(0, "headset of before"), "headset").index == 1


def test_a_lost_device_is_not_replaced_by_index() -> None:
    """The index may belong to another device by now."""
    with pytest.raises(SourceError, match="microphone 'gone' is gone"):
        reselect_device(DEVICES, device(1, "gone"), "1")


def test_a_microphone_that_is_looked_for_does_not_end_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two that were lost together would end each other's recording forever."""

    def restarted() -> None:
        raise AssertionError("PortAudio was restarted")

    monkeypatch.setattr(devices, "portaudio", restarted)
    streams, other = devices.OpenStreams(), object()
    streams.recording(other)
    streams.restart_for(MICROPHONE)
    streams.restart_for(LOUDSPEAKER)
    streams.closed(other)
    with pytest.raises(AssertionError, match="restarted"):
        streams.restart_for(MICROPHONE)


def source(name: str, description: str = "", *, monitor: bool = False) -> Device:
    return Device(None, name, "PulseAudio", 2, 48_000, False, description, monitor)


SOURCES = [
    source("alsa_input.usb-Jabra", "Jabra Speak"),
    source("alsa_input.pci", "Built-in Audio"),
    source("alsa_output.usb-Jabra.monitor", "Monitor of Jabra Speak", monitor=True),
]


@pytest.mark.parametrize(
    ("preferences", "index", "rank"),
    [
        (["jabra", "pci"], 0, 0),
        (["webcam", "*.pci"], 1, 1),
        (["built-in audio"], 1, 0),
        (["*.monitor"], 2, 0),
        (["alsa_output.usb-Jabra.monitor"], 2, 0),
    ],
)
def test_the_first_preferred_microphone_that_is_there_is_chosen(
    preferences: list[str], index: int, rank: int
) -> None:
    """A monitor of a loudspeaker is meant only if no microphone is."""
    assert choose_preferred(SOURCES, preferences) == (SOURCES[index], rank)


def test_a_microphone_that_does_not_work_is_chosen_last() -> None:
    failed = [SOURCES[0].key]
    assert choose_preferred(SOURCES, ["jabra", "pci"], avoided=failed).rank == 1
    assert choose_preferred(SOURCES, ["jabra"], avoided=failed).rank == 0


def test_the_same_microphone_is_chosen_again_among_several() -> None:
    with pytest.raises(Ambiguous, match="several microphones match 'alsa_input'"):
        choose_preferred(SOURCES, ["alsa_input"])
    known = {0: SOURCES[1].key}
    assert choose_preferred(SOURCES, ["alsa_input"], known).device == SOURCES[1]
    assert choose_preferred(DEVICES, ["1"], {0: DEVICES[0].key}).device == DEVICES[0]
    with pytest.raises(SourceError, match="no microphone is named '1'"):
        choose_preferred(DEVICES, ["1"], {0: ("ALSA", "gone")})


def test_names_with_commas_in_parentheses_are_one() -> None:
    found = MicrophoneSettings(device=" HDA: ALC257 (hw:0,0), Jabra,,")
    assert found.device == ("HDA: ALC257 (hw:0,0)", "Jabra")


@pytest.mark.parametrize("preferences", [["USB headset"], []])
def test_what_the_sound_server_had_is_not_taken_from_another_host(preferences: list[str]) -> None:
    """The server could connect a device of another host to any of its microphones."""
    known = {0: source("USB headset").key}
    with pytest.raises(SourceError, match="available"):
        choose_preferred(DEVICES, preferences, known)
    assert choose_preferred(DEVICES, ["USB headset", "pulse"], known) == (DEVICES[0], 1)
    assert choose_preferred(DEVICES, preferences).rank == 0
