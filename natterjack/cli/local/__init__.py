"""Subcommands that concern this machine alone."""
