"""Running a program: its start, signals, event loop, tasks, systemd, variables and terminal."""
