"""The text of a voice session: received, put in order, divided into phrases, and paced."""
