"""The edge agent: captures audio and publishes it as the chunks of a session."""
