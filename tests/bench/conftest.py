"""Fixtures of the benchmarks' tests."""

from tests.edge_capture.conftest import sound_packages as sound_packages
