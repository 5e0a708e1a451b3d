"""The configuration file of an agent with several sources: its keys, names, and times. Pure."""
