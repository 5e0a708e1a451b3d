"""Commands about conversations: transcribing recordings, requests to sessions."""
