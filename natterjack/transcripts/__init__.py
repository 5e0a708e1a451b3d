"""A conversation as a value: its speakers merged on one clock, as text, subtitles and JSON."""
