"""Faces that were extracted from a picture a moment ago, kept for when it comes again: in Redis, or in the process."""
