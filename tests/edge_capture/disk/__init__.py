"""Tests of `edge_capture.disk`."""
