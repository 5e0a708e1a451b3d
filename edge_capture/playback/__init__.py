"""Playing the speech of voice sessions: on a loudspeaker, into a WAV file or standard output."""
