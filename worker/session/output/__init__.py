"""What a session publishes: events made from a provider's, timed, numbered and stored once."""
