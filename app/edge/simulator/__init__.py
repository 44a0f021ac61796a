"""Replays a scenario against the controller's own parts, on a clock that stands still in between."""
