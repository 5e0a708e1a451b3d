"""The `natterjack` command: one module for each subcommand, and their tables."""
