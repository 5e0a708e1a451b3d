"""The hold on a key: while one agent captures it, the others are refused."""
