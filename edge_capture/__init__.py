"""The edge agent: captures sound and publishes it as the chunks of a session."""
