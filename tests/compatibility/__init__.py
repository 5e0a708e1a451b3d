"""What one release writes, the releases beside it read: docs/explanation/compatibility.md."""
