"""The worker: claims sessions, sends their audio to a speech provider, publishes transcripts."""
