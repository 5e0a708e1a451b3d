"""Transcribing recordings: which files, what an earlier run has left, how far each is."""
