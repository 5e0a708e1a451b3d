"""What incoming audio is, and what is wrong with it. These modules read no clock and no file."""
