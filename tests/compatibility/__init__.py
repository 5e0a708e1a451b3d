"""Neighboring releases read what each other write: docs/explanation/compatibility.md."""
