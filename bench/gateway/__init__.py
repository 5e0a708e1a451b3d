"""Benchmarks of the gateway: `python -m bench.gateway --help`."""
