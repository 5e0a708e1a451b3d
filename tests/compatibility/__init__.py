"""What one release writes, the releases beside it read: docs/compatibility.md."""
