"""Parts that the tests of providers with an emulator share, and the tests that all of them pass."""
