import numpy as np
import pytest

from app.verification.comparison import compare
from app.vision.packs import Calibration

CALIBRATION = Calibration(threshold=0.4, slope=20.0, margin=0.05, basis="test")


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


def test_a_vector_is_itself():
    rows = np.random.default_rng(1).normal(size=(200, 128)).astype(np.float32)
    for row in rows:
        vector = unit(*row)
        found = compare(vector, vector, CALIBRATION)
        assert found.verified
        assert 0.0 <= found.distance < 1e-6


def test_the_distance_is_the_cosines_and_bounded():
    assert compare(unit(1, 0), unit(0, 1), CALIBRATION).distance == pytest.approx(1.0)
    assert compare(unit(3, 4), unit(-3, -4), CALIBRATION).distance == pytest.approx(2.0)
    assert compare(unit(3, 4), unit(-3, -4), CALIBRATION).distance <= 2.0


def test_the_threshold_itself_is_verified_and_has_half_the_confidence():
    a, b = unit(1, 0), unit(0.6, 0.8)
    at = compare(a, b, CALIBRATION.model_copy(update={"threshold": compare(a, b, CALIBRATION).distance}))
    assert at.verified
    assert at.confidence == pytest.approx(50.0)


def test_a_threshold_of_the_callers_changes_the_verdict_and_not_the_confidence():
    a, b = unit(1, 0), unit(0.9, 0.4)
    packs, strict = compare(a, b, CALIBRATION), compare(a, b, CALIBRATION, threshold=0.01)
    assert (packs.verified, strict.verified) == (True, False)
    assert (packs.threshold, strict.threshold) == (0.4, 0.01)
    assert packs.confidence == strict.confidence
