"""The contract of voice sessions: text in, speech out. Nothing here knows asyncio or NATS."""
