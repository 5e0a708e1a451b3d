"""Random faults while text is spoken: what players heard, compared with what was said."""
