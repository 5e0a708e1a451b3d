"""Logs, traces, and the notifications that systemd expects."""
