"""Voice sessions: text in, speech out. `session.py` has the path; `text`, `phrases`, `playback` and
`pacing` decide, and know neither asyncio nor NATS."""
