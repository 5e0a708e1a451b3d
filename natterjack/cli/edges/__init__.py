"""`natterjack edges`: the edges that are known, their state, and requests to them."""
