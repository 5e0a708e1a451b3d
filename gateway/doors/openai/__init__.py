"""The doors for clients of OpenAI: realtime transcription, and files."""
