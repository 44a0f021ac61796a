import cv2
import numpy as np
import pytest

from app.vision.alignment import align_face, fits_template
from tests.pictures import group_photo

# insightface's own template, written out again on purpose: a slip in ours must not go unseen.
_ARCFACE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
# Read off by eye: the man in the middle of t1.jpg.
_LANDMARKS = np.array([[496, 322], [546, 335], [512, 362], [486, 369], [531, 380]], np.float32)


def test_aligned_face_equals_insightfaces() -> None:
    from insightface.utils.face_align import estimate_norm

    image = cv2.imread(str(group_photo()))
    with pytest.warns(FutureWarning, match="estimate"):
        matrix = estimate_norm(_LANDMARKS)

    chip = align_face(image, _LANDMARKS)

    expected = cv2.warpAffine(image, matrix, (112, 112))
    assert np.abs(chip.astype(int) - expected).mean() < 0.5


def test_landmarks_on_the_template_leave_the_picture_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)

    assert np.array_equal(align_face(image, _ARCFACE), image)


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, 270])
def test_turned_faces_are_set_upright(degrees: int) -> None:
    image = cv2.imread(str(group_photo()))
    turn = cv2.getRotationMatrix2D((510, 345), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, image.shape[1::-1], flags=cv2.INTER_CUBIC)
    landmarks = (_LANDMARKS @ turn[:, :2].T + turn[:, 2]).astype(np.float32)

    difference = align_face(turned, landmarks).astype(int) - align_face(image, _LANDMARKS)

    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("factor", [2, 4, 7])
def test_large_faces_give_the_same_chip_as_small_ones(factor: int) -> None:
    image = cv2.imread(str(group_photo()))[200:500, 400:700]
    landmarks = _LANDMARKS - (400, 200)
    large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    # The middle of a pixel stays the middle of the pixels that it becomes.
    large_landmarks = ((landmarks + 0.5) * factor - 0.5).astype(np.float32)

    difference = align_face(large, large_landmarks).astype(int) - align_face(image, landmarks.astype(np.float32))

    assert np.abs(difference).mean() < 3


def test_noise_of_large_faces_is_averaged_out() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (896, 896, 3), np.uint8)

    chip = align_face(noise, ((_ARCFACE + 0.5) * 8 - 0.5).astype(np.float32))

    # Of 64 pixels the mean varies an eighth as much as each of them does.
    assert chip.std() < noise.std() / 6


def test_beyond_the_picture_is_black() -> None:
    chip = align_face(np.full((60, 112, 3), 255, np.uint8), _ARCFACE)

    assert (chip[:58] == 255).all()
    assert (chip[62:] == 0).all()


@pytest.mark.parametrize(
    "landmarks", [np.zeros((5, 2)), np.full((5, 2), 1e6), np.full((5, 2), np.nan), np.full((5, 2), np.inf)]
)
def test_points_without_extent_fit_no_template(landmarks: np.ndarray) -> None:
    assert not fits_template(landmarks.astype(np.float32))


def test_five_points_of_a_face_fit_the_template() -> None:
    assert fits_template(_LANDMARKS)
