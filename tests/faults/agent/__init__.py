"""One agent with four sources under random faults: every word is transcribed or in a named gap."""
