"""The edge's presence, which the center sees, and the requests that the center may send to the
edge."""
