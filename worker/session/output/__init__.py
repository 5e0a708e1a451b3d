"""Publishing a session's events: they are made from the provider's, timed, numbered and stored
once."""
