"""Measures ways of doing the same thing side by side, in one run: `flask benchmark`, and `scripts/bench`."""
