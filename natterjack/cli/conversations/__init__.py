"""Commands about conversations: transcribing recordings, exporting, requests to sessions."""
