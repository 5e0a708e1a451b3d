"""The life of one session: its states, and everything that happens between claim and close."""
