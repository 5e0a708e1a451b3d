"""Reading transcripts: `listen()` and what is built on it."""
