import pytest

# Helpers that check something, outside test modules.
pytest.register_assert_rewrite(
    "tests.worker.providers.deepgram_flux.messages",
    "tests.worker.providers.emulated.streams",
)
