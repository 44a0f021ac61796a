"""What is said of one frame, by tables."""

import numpy as np
import pytest

from app.sessions.frames import HINTS, QualityBounds, Reason, assess, hint
from app.vision.faces import Analysis, Box, Face, FaceQuality

BOUNDS = QualityBounds(min_face_px=50, min_sharpness=10.0)


def face(
    size: int = 100, *, sharpness: float = 50.0, brightness: float | None = 120.0, turn: float | None = 0.0
) -> Face:
    quality = FaceQuality(size, sharpness, brightness, turn)
    return Face(Box(0, 0, size, size), 0.9, np.zeros((5, 2), np.float32), quality)


def seen(*faces: Face) -> Analysis:
    return Analysis(640, 480, faces, "dlib", "test:8:0")


@pytest.mark.parametrize(
    ("analysis", "reasons"),
    [
        (seen(face()), []),
        (seen(face(brightness=None, turn=None)), []),
        (seen(), ["no_face"]),
        (seen(face(100), face(90)), ["several_faces"]),
        (seen(face(100), face(70)), []),
        (seen(face(49)), ["too_small"]),
        (seen(face(sharpness=9.9)), ["blurred"]),
        (seen(face(brightness=20.0)), ["dark"]),
        (seen(face(brightness=240.0)), ["bright"]),
        (seen(face(turn=0.6)), ["turned_away"]),
        (seen(face(turn=-0.6)), ["turned_away"]),
        (seen(face(20, sharpness=1.0, brightness=1.0, turn=1.0)), ["too_small", "dark", "turned_away", "blurred"]),
    ],
)
def test_a_frame_counts_or_it_is_said_why_not(analysis, reasons):
    found = assess(analysis, BOUNDS)
    assert [reason.value for reason in found.reasons] == reasons
    assert found.usable is (not reasons)


def test_each_reason_has_a_hint_and_the_gravest_is_told():
    assert set(HINTS) == set(Reason)
    assert hint((Reason.TOO_SMALL, Reason.BLURRED)) == HINTS[Reason.TOO_SMALL]
    assert hint(()) is None
