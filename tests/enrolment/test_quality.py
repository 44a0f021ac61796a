import numpy as np
import pytest

from app.enrolment.quality import check_quality, main_face
from app.errors import FaceBlurred, FaceTooSmall, NoFaceFound, SeveralFaces
from app.vision.faces import Analysis, Box, Face, FaceQuality


def face(side: int, sharpness: float = 500.0, score: float = 1.0) -> Face:
    return Face(Box(0, 0, side, side), score, np.zeros((5, 2), np.float32), FaceQuality(side, sharpness))


def analysis(*faces: Face) -> Analysis:
    return Analysis(640, 480, faces, "dlib", "contract")


def test_the_only_face_is_the_main_one():
    only = face(100)
    assert main_face(analysis(only)) is only


def test_a_bystander_does_not_matter():
    large = face(100)
    assert main_face(analysis(large, face(70))) is large


def test_two_faces_of_about_one_size_are_refused():
    with pytest.raises(SeveralFaces, match="2 faces"):
        main_face(analysis(face(100), face(95)))


@pytest.mark.parametrize("side", [90, 100, 300])
def test_a_detection_that_is_hardly_one_is_neither_the_main_face_nor_a_rival(side):
    sure = face(100, score=1.2)
    largest_first = sorted([sure, face(side, score=0.2)], key=lambda item: -item.box.w)
    assert main_face(analysis(*largest_first)) is sure


def test_no_face_is_refused():
    with pytest.raises(NoFaceFound):
        main_face(analysis())


def test_a_small_face_is_refused_with_both_sizes():
    with pytest.raises(FaceTooSmall, match="40 px wide; at least 50"):
        check_quality(face(40), min_face_px=50, min_sharpness=10)


def test_a_blurred_face_is_refused():
    with pytest.raises(FaceBlurred):
        check_quality(face(100, sharpness=5), min_face_px=50, min_sharpness=10)


def test_a_good_face_is_taken():
    check_quality(face(50, sharpness=10), min_face_px=50, min_sharpness=10)
