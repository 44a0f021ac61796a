#!/usr/bin/env python3
"""How often somebody else's picture comes as near to a person's templates as some distance: `FalseMatches` of a model pack.

    .venv/bin/python scripts/false_matches.py --storage storage --model dlib FOLDER

FOLDER has one folder a person, with at least eight pictures. The first seven of each are templates; every picture of every
other person claims to be them, by its nearest template. The distance at a rate of 0.1 is counted; at lower ones it is that of
the exponential tail that fits the nearest tenth of the claims. The bounds come from drawing the persons anew, with replacement:
persons, not pictures, are independent.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.config import parse_settings
from app.deadline import NO_DEADLINE
from app.embedder.local import LocalEmbedder
from app.enrolment.quality import main_face
from app.errors import RecognitionError
from app.vision.faces import Float32Array

_TEMPLATES = 7
_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_TAIL = 0.1
_DRAWS = 1000


def distances_at(claims: Float32Array, rates: Sequence[float]) -> list[float]:
    """The distance that each share of the claims, float, (N,), does not exceed; those below a tenth from the fitted tail."""
    nearest = np.sort(claims)[: max(5, int(_TAIL * len(claims)))]
    edge = float(np.quantile(claims, _TAIL))
    scale = float(np.mean(edge - nearest))
    return [edge - scale * float(np.log(_TAIL / rate)) for rate in rates]


def _embeddings(embedder: LocalEmbedder, person: Path) -> Float32Array:
    """float32, (N, D): the main face of each picture that has one."""
    found = []
    for path in sorted(path for path in person.iterdir() if path.is_file()):
        try:
            found.append(main_face(embedder.analyze(path.read_bytes(), deadline=NO_DEADLINE)).embedding)
        except RecognitionError as error:
            print(f"left out: {path.name}: {error}")
    return np.stack([embedding for embedding in found if embedding is not None])


def _claims(persons: dict[str, Float32Array]) -> dict[tuple[str, str], Float32Array]:
    """Of each ordered pair of persons, how near the pictures of the second are to the first one's templates."""
    return {
        (one, other): 1.0 - (persons[other] @ persons[one][:_TEMPLATES].T).max(axis=1)
        for one, other in permutations(persons, 2)
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", type=Path, required=True, help="storage folder in which the model is installed")
    parser.add_argument("--model", default="dlib")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    embedder = LocalEmbedder(parse_settings(storage_dir=given.storage), given.model)
    persons = {path.name: _embeddings(embedder, path) for path in sorted(given.folder.iterdir()) if path.is_dir()}
    claims = _claims(persons)
    everyone = np.concatenate(list(claims.values()))
    rng, names = np.random.default_rng(0), list(persons)
    drawn = []
    for _ in range(_DRAWS):
        sample = rng.choice(names, len(names))
        pairs = [claims[one, other] for one in sample for other in sample if one != other]
        drawn.append(distances_at(np.concatenate(pairs), _RATES))
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    print(f"{len(everyone)} claims of {len(persons)} persons; nearest: {np.sort(everyone)[:3].round(4)}")
    for rate, distance, least, most in zip(_RATES, distances_at(everyone, _RATES), low, high, strict=True):
        seen = float((everyone <= distance).mean())
        print(
            f"rate {rate:g}: distance {distance:.4f} (90 %: {least:.4f} to {most:.4f}); share of the claims: {seen:.4f}"
        )


if __name__ == "__main__":
    main()
