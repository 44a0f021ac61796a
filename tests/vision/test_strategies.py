"""Faces in pictures in which the usual look finds none, or not as they are."""

import math
from itertools import count

import numpy as np
import pytest
from PIL import Image

from app.errors import WorkerTimeout
from app.vision.faces import Analysis, Box, Face, FaceQuality
from app.vision.strategies import (
    GROUPS,
    NONE_FOUND,
    USUAL,
    MinScores,
    Strategy,
    face_in_picture,
    search,
    shown_picture,
)
from tests import pictures

SCORES = MinScores(certain=0.8, strict=0.5, tolerant=0.2)
BLANK = np.zeros((60, 80, 3), np.uint8)
LANDMARKS = np.array([[12, 10], [18, 10], [15, 14], [12, 17], [18, 17]], np.float32)
WHERE = Box(10, 10, 20, 20)
CHIP = np.zeros((112, 112, 3), np.uint8)
TURNED = (90, 180, 270)


def face(score: float, box: Box = WHERE) -> Face:
    return Face(box, score, LANDMARKS, FaceQuality(20, 1.0))


def detector(scores: dict[int, list[float]]):
    """Sees faces of these scores at the looks of these numbers, from 0 on."""
    looks = count()

    def detect(_image, _zoom, min_score):
        return [(face(score), CHIP) for score in scores.get(next(looks), []) if score >= min_score]

    return detect


def looked(scores: dict[int, list[float]], effort="thorough") -> tuple[list[float], str]:
    found, name = search(BLANK, detector(scores), SCORES, effort, lambda _: None)
    return [item[0].score for item in found], name


STRATEGIES = [strategy for group in GROUPS for strategy in group if strategy is not USUAL]
NAMES = [USUAL.name, *(strategy.name for strategy in STRATEGIES)]


def test_the_usual_effort_is_one_look():
    assert looked({1: [0.9]}, "usual") == ([], "usual")
    assert looked({0: [0.6, 0.3]}, "usual") == ([0.6], "usual")


def test_what_the_detector_is_certain_of_ends_the_search():
    assert looked({0: [0.85, 0.6, 0.3], 1: [0.99]}) == ([0.85, 0.6], "usual")
    assert looked({2: [0.9], 3: [0.99]}) == ([0.9], NAMES[2])


def test_else_the_surest_of_a_group_is_taken_and_the_next_group_is_not_tried():
    assert looked({0: [0.5], 2: [0.7, 0.55, 0.4], 3: [0.6], 4: [0.99]}) == ([0.7, 0.55], NAMES[2])
    assert looked({0: [0.4], 4: [0.6], 5: [0.7], 8: [0.99]}) == ([0.7], NAMES[5])
    assert [NAMES[0], NAMES[3], NAMES[4], NAMES[8]] == ["usual", "turned-180", "enlarged", "tilted+20"]


def test_of_what_it_is_not_sure_of_one_face_is_taken_and_the_name_says_so():
    assert looked({1: [0.3, 0.4], 7: [0.25]}) == ([0.4], f"{NAMES[1]}-tolerant")
    assert looked({0: [0.3], 7: [0.31]}) == ([0.31], f"{NAMES[7]}-tolerant")


def test_less_than_that_is_no_face():
    assert looked({3: [0.1]}) == ([], NONE_FOUND)


def test_whoever_waits_is_asked_before_each_strategy():
    asked = count()
    looks = []

    def give_up_at_the_third(_strategy: Strategy) -> None:
        if next(asked) == 2:
            raise WorkerTimeout

    def detect(_image, zoom, _min_score):
        looks.append(zoom)
        return []

    with pytest.raises(WorkerTimeout):
        search(BLANK, detect, SCORES, "thorough", give_up_at_the_third)
    assert len(looks) == 3


@pytest.mark.parametrize("strategy", [*STRATEGIES, Strategy("all", 2.0, 0.3, 90)], ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("size", [(97, 61), (60, 60), (2500, 1700)], ids=str)
def test_a_place_is_where_it_was(strategy, size):
    width, height = size
    unit = max(1, max(size) // 60)
    box = Box(width // 3, height // 2, 12 * unit, 8 * unit)
    corner = np.array([box.x, box.y], np.float32)  # the pixel in the upper left corner of the box
    picture = np.zeros((height, width, 3), np.uint8)
    picture[box.y : box.y + box.h, box.x : box.x + box.w] = 255
    shown, matrix = shown_picture(picture, strategy)
    ys, xs = np.nonzero(shown[:, :, 0] > 127)
    seen = Box(int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
    there = matrix @ np.array([*(corner + 0.5), 1.0]) - 0.5
    found = face_in_picture(
        Face(seen, 1.0, np.tile(there, (5, 1)).astype(np.float32), FaceQuality(1, 1.0)),
        matrix,
        width_px=width,
        height_px=height,
    )
    assert found is not None
    near = max(1.5, 1.5 * max(size) / 2048)
    assert np.abs(found.landmarks - corner).max() < 0.01
    middle = np.array([found.box.x + found.box.w / 2, found.box.y + found.box.h / 2])
    assert np.abs(middle - (box.x + box.w / 2, box.y + box.h / 2)).max() <= near
    if strategy.angle_deg % 90 == 0:
        assert max(abs(found.box.w - box.w), abs(found.box.h - box.h)) <= near
        assert found.quality.size_px == min(found.box.w, found.box.h)


def test_a_face_that_lies_in_the_padding_is_none():
    padded = next(strategy for strategy in STRATEGIES if strategy.padding)
    _, matrix = shown_picture(BLANK, padded)
    assert face_in_picture(face(1.0, Box(0, 0, 20, 20)), matrix, width_px=80, height_px=60) is None


# Real pictures


def person() -> Image.Image:
    return Image.open(pictures.portrait()).convert("RGB").crop((120, 0, 340, 270))


def analysed(engine, image: Image.Image, effort="thorough") -> Analysis:
    return engine.analyze(pictures.encode(image, "PNG"), max_pixels=pictures.MAX_PIXELS, effort=effort)


def likeness(one: Face, other: Face) -> float:
    return float(one.embedding @ other.embedding)


@pytest.fixture(scope="module")
def right(engine) -> Face:
    """The face of the upright picture, as the usual look finds it."""
    (found,) = analysed(engine, person(), "usual").faces
    return found


@pytest.mark.parametrize("angle", TURNED)
def test_a_picture_on_its_side_gives_the_same_face(engine, right, angle):
    turned = person().rotate(-angle, expand=True)  # Pillow turns anticlockwise
    # One detector finds nothing, the other a face that is not as it is.
    assert all(likeness(found, right) < 0.8 for found in analysed(engine, turned, "usual").faces)
    analysis = analysed(engine, turned)
    (found,) = analysis.faces
    assert analysis.strategy == f"turned-{360 - angle}"
    assert likeness(found, right) > 0.98
    width, height = person().size
    expected = {
        90: (height - right.box.y - right.box.h, right.box.x),
        180: (width - right.box.x - right.box.w, height - right.box.y - right.box.h),
        270: (right.box.y, width - right.box.x - right.box.w),
    }[angle]
    assert (analysis.width_px, analysis.height_px) == turned.size
    # Of the face as it was seen upright, whose chip is the same.
    measured = (found.quality.sharpness, found.quality.brightness, found.quality.turn)
    assert measured == pytest.approx((right.quality.sharpness, right.quality.brightness, right.quality.turn), rel=0.2)
    assert max(abs(found.box.x - expected[0]), abs(found.box.y - expected[1])) <= 2
    size = (right.box.w, right.box.h) if angle == 180 else (right.box.h, right.box.w)
    assert max(abs(found.box.w - size[0]), abs(found.box.h - size[1])) <= 2


def test_photos_of_ten_persons_on_their_side_show_the_same_persons(engine):
    for number, paths in enumerate(pictures.lfw10().values()):
        photo = Image.open(paths[0]).convert("RGB")
        upright = analysed(engine, photo, "usual").faces[0]
        turned = photo.rotate(TURNED[number % 3], expand=True)
        found = analysed(engine, turned).faces
        assert max(likeness(face, upright) for face in found) > 0.9, paths[0]


def test_a_tiny_picture_is_enlarged(dlib_engine):
    small = person().resize((44, 54), Image.Resampling.BOX)
    assert analysed(dlib_engine, small, "usual").faces == ()
    analysis = analysed(dlib_engine, small)
    (found,) = analysis.faces
    assert analysis.strategy in ("enlarged", "enlarged-tolerant")
    assert found.quality.size_px < 25


def test_a_face_cut_out_too_tightly_is_padded(dlib_engine):
    (whole,) = analysed(dlib_engine, person(), "usual").faces
    box = whole.box
    inset = box.w // 6
    tight = person().crop((box.x + inset, box.y + inset, box.x + box.w - inset, box.y + box.h - inset))
    assert analysed(dlib_engine, tight, "usual").faces == ()
    analysis = analysed(dlib_engine, tight)
    (found,) = analysis.faces
    assert found.box.x >= 0
    assert found.box.x + found.box.w <= tight.width
    assert likeness(found, whole) > 0.93


def test_a_tilted_picture_is_set_upright(dlib_engine):
    (upright,) = analysed(dlib_engine, person(), "usual").faces
    tilted = person().rotate(50, expand=True, resample=Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
    assert analysed(dlib_engine, tilted, "usual").faces == ()
    analysis = analysed(dlib_engine, tilted)
    (found,) = analysis.faces
    assert analysis.strategy.startswith(("tilted+", "turned-90"))
    assert likeness(found, upright) > 0.95


def test_what_the_usual_look_finds_stays_as_it_is(engine):
    data = pictures.group_photo().read_bytes()
    usual, thorough = (
        engine.analyze(data, max_pixels=pictures.MAX_PIXELS, effort=effort) for effort in ("usual", "thorough")
    )
    assert (usual.strategy, thorough.strategy) == ("usual", "usual")
    assert [found.box for found in thorough.faces] == [found.box for found in usual.faces]
    assert all(np.array_equal(a.embedding, b.embedding) for a, b in zip(usual.faces, thorough.faces, strict=True))


@pytest.mark.parametrize("name", ["brick.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png"])
def test_where_there_is_no_face_no_strategy_sees_one(engine, name):
    data = (pictures.portrait().parent / name).read_bytes()
    analysis = engine.analyze(data, max_pixels=pictures.MAX_PIXELS, effort="thorough")
    assert (analysis.faces, analysis.strategy) == ((), NONE_FOUND)


def test_the_deadline_is_looked_at_between_strategies(engine):
    class Patience:
        """Runs out at the third question."""

        expired = False

        def __init__(self) -> None:
            self.asked = 0

        def remaining_s(self) -> float:
            self.asked += 1
            return math.inf if self.asked < 3 else 0.0

    patience = Patience()
    with pytest.raises(WorkerTimeout):
        engine.analyze(pictures.faceless(), max_pixels=pictures.MAX_PIXELS, effort="thorough", deadline=patience)
    assert patience.asked == 3
