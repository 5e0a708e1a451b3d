"""The public API for authors of speech providers: interface, errors, WebSocket, contract suite.

A plugin imports this package and nothing of `worker`.
"""
