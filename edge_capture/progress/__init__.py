"""What an edge tells people of a run: the table on a terminal, log lines, findings, transcripts."""
