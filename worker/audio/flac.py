"""Decoding FLAC chunks by libsndfile, which is loaded with the first session that sends any."""

from __future__ import annotations

import io
from collections.abc import Callable

from natterjack.audio import AudioFormat, flac_frames
from natterjack.errors import BadChunk


def flac_decoder(audio_format: AudioFormat) -> Callable[[bytes], bytes]:
    """A function that decodes a chunk's payload to audio in this format, `linear16`.

    It costs 75 microseconds for 80 ms at 16 kHz. It decodes as many frames as the beginning of the
    payload says, which `flac_frames` bounds, and leaves out what follows them. It raises BadChunk
    if there are fewer, or the payload is damaged or has another format.
    """
    import soundfile  # 20 ms that sessions without FLAC do not need

    def decode(payload: bytes) -> bytes:
        frames = flac_frames(payload, audio_format)
        if not frames:
            return b""
        try:
            with soundfile.SoundFile(io.BytesIO(payload)) as stream:
                samples = stream.read(frames, dtype="int16", always_2d=True)
        except soundfile.SoundFileError as error:
            raise BadChunk("flac", str(error)) from None
        if samples.shape != (frames, audio_format.channels):
            raise BadChunk("flac", f"it says {frames} frames and has {len(samples)}")
        decoded: bytes = samples.tobytes()
        return decoded

    return decode
