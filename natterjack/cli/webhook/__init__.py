"""`natterjack webhook` and its actions."""
