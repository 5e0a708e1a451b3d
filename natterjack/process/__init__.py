"""How programs run as a process: the event loop, ending tasks, telling systemd, the terminal."""
