"""What the tests of the providers with an emulator share, and the tests that all of them pass."""
