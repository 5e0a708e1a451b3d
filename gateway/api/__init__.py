"""The outgoing side: conversations, transcript files, live events and tokens, over HTTP."""
