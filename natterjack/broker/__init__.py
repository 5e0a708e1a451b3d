"""Access to NATS: the connection, stored messages, streams, buckets, permissions.

Imports the contract modules and `natterjack.telemetry`. `wire` encodes and decodes the protocol;
only `fastpath` and `parser` use private parts of nats-py.
"""
