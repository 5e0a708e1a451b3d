"""Everything that talks to NATS: the connection, stored messages, streams, buckets, permissions.

Imports the contract modules and `natterjack.telemetry`. All use of nats-py's private parts is in
`fastpath`.
"""
