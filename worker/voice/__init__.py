"""Voice sessions: text in, speech out. `session.py` has the path; `text/ordering`, `text/phrases`,
`text/pacing` and `playback` decide, and know neither asyncio nor NATS."""
