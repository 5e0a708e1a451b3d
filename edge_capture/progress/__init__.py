"""Progress of an edge's run for people: a table on the terminal, log lines, findings,
transcripts."""
