"""`/ws/transcribe`: clients of the managed protocol."""
