"""Speaking: the application's side of voice sessions."""
