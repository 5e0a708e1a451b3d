"""Access to NATS: the connection, stored messages, streams, buckets, permissions.

Imports the contract modules and `natterjack.telemetry`. `client/wire` encodes and decodes the
protocol; only `client/fastpath` and `client/parser` use private parts of nats-py.
"""
