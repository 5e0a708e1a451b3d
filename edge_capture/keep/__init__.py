"""Recordings that an edge keeps on its own disk, as FLAC files, within limits."""
