"""The client of NATS: nats-py with a faster path; all that touches its private parts."""
