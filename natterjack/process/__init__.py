"""How the worker and the edge run as a process: the event loop, ending tasks, telling systemd."""
