"""`natterjack-edge check`: whether this agent could capture and publish, without doing either."""
