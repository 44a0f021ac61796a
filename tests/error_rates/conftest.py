"""Galleries of made-up people whose templates overlap, so that every kind of error happens."""

import numpy as np

from app.error_rates.comparing import Templates


def crowd(persons: int, *, dimension: int = 8, spread: float = 0.7, seed: int = 1) -> Templates:
    """One to six templates of each person, around a direction of their own."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, persons)
    owners = np.repeat(np.arange(persons), counts)
    centres = rng.normal(size=(persons, dimension))
    vectors = centres[owners] / np.linalg.norm(centres[owners], axis=1, keepdims=True)
    vectors = vectors + spread * rng.normal(size=vectors.shape) / np.sqrt(dimension)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Templates(vectors.astype(np.float32), owners)
