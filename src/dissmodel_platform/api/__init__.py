"""The HTTP edge: parses, calls one service, returns a schema."""
