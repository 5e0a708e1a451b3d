"""The `natterjack` command: one module for each subcommand, and the tables they print."""
