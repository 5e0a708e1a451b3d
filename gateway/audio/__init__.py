"""Audio as clients send it, containers included, made into linear16 for sessions."""
