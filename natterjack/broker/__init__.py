"""Access to NATS: the connection, stored messages, streams, buckets, permissions.

Imports the contract modules and `natterjack.telemetry`. `wire` encodes and decodes the protocol;
`fastpath` is the only module that uses private parts of nats-py.
"""
