"""How the processes of one durable consumer share its work, and keep the order of each session."""
