"""Credentials of this machine's own: enrolling it, keeping its identity, noticing a clone."""
