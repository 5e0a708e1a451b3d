"""Emulators of speech providers: loopback servers that speak a provider's protocol, without keys.

They need the extra `worker`; those of Speechmatics, which validate messages against the provider's
own specification, need the extra `emulators`. README.md beside this module says how they are used.

    from natterjack.emulators import tones
    from natterjack.emulators.deepgram import DeepgramEmulator

    async with DeepgramEmulator() as emulator:
        ...  # a client of emulator.url that sends tones.encode(["dark", "owl"])
"""
