"""What calibration promises, with engines and plain exact search: who is named, who is not, and nobody wrongly."""

from itertools import combinations

import numpy as np
import pytest

from app.vision.engine import FaceEngine
from app.vision.packs import Calibration
from tests.pictures import GALLERY_SIZE, MAX_PIXELS, lfw10

Embeddings = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def embeddings(engine: FaceEngine) -> Embeddings:
    """Of each person the largest face of each picture, in order; float32, (10, D)."""
    return {
        person: np.stack(
            [
                engine.analyze(path.read_bytes(), max_pixels=MAX_PIXELS, embed="largest").faces[0].embedding
                for path in paths
            ]
        )
        for person, paths in lfw10().items()
    }


def _decide(probe: np.ndarray, gallery: Embeddings, calibration: Calibration) -> str | None:
    """The person named, or None: nobody near enough, or two too close to tell."""
    nearest = sorted((float((1 - templates @ probe).min()), person) for person, templates in gallery.items())
    (best, person), (second, _) = nearest[:2]
    return person if best <= calibration.threshold and second - best >= calibration.margin else None


def test_probes_are_named_right_and_none_wrong(engine: FaceEngine, embeddings: Embeddings) -> None:
    gallery = {person: rows[:GALLERY_SIZE] for person, rows in embeddings.items()}
    calibration = engine.pack.manifest.calibration

    named = [
        (_decide(probe, gallery, calibration), person)
        for person, rows in embeddings.items()
        for probe in rows[GALLERY_SIZE:]
    ]

    assert len(named) == 30
    assert [pair for pair in named if pair[0] not in (None, pair[1])] == []
    assert sum(found == person for found, person in named) >= (28 if engine.pack.manifest.kind == "dlib" else 30)


def test_people_who_are_not_enrolled_are_never_named(engine: FaceEngine, embeddings: Embeddings) -> None:
    calibration = engine.pack.manifest.calibration
    for strangers in combinations(embeddings, 2):
        gallery = {person: rows[:GALLERY_SIZE] for person, rows in embeddings.items() if person not in strangers}

        named = [_decide(probe, gallery, calibration) for person in strangers for probe in embeddings[person]]

        assert named == [None] * 20, strangers


def test_confidence_tells_the_same_person_from_another(engine: FaceEngine, embeddings: Embeddings) -> None:
    rows = np.concatenate(list(embeddings.values()))
    persons = np.repeat(np.arange(len(embeddings)), 10)
    first, second = np.triu_indices(len(rows), k=1)
    distances = 1 - (rows[first] * rows[second]).sum(axis=1)
    confidences = np.array([engine.pack.manifest.calibration.confidence(distance) for distance in distances])
    genuine = persons[first] == persons[second]

    assert np.median(confidences[genuine]) > 90
    assert np.quantile(confidences[~genuine], 0.999) < 50
