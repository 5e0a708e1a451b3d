"""Recognizing, mixing and checking incoming audio. These modules read no clock and no file."""
