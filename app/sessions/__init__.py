"""Sessions: a person enrolled, or verified, from a stream of frames."""
