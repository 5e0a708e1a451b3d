"""Reading transcripts: `listen()`, and captions for a terminal."""
