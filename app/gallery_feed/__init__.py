"""Tells those who keep a copy of a domain's gallery what has changed in it."""
