"""Blocking disk operations in a thread, and what is said of a disk that does not answer."""
