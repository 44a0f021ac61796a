"""What both kinds of engine answer, on real pictures."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from app.errors import ImageTooLarge, InvalidImage, InvalidPack, UnsupportedImage
from app.vision.engine import FaceEngine, load_engine
from app.vision.faces import Analysis, Box
from app.vision.packs import InstalledPack, PackManifest
from tests.pictures import MAX_PIXELS, filling_portrait, group_photo, lfw10

# Read off `t1.jpg` by eye: from eyebrows to chin and from cheek to cheek; left, top, right, bottom.
_FACES_OF_T1 = [
    (62, 270, 165, 392),
    (272, 155, 362, 268),
    (466, 280, 572, 412),
    (742, 352, 842, 472),
    (905, 75, 1005, 202),
    (1130, 285, 1225, 395),
]


def _analyze(engine: FaceEngine, image: np.ndarray, **options: str) -> Analysis:
    return engine.analyze(cv2.imencode(".png", image)[1].tobytes(), max_pixels=MAX_PIXELS, **options)


def _overlap(box: Box, corners: tuple[int, int, int, int]) -> float:
    """Intersection over union."""
    left, top, right, bottom = corners
    width = min(box.x + box.w, right) - max(box.x, left)
    height = min(box.y + box.h, bottom) - max(box.y, top)
    common = max(0, width) * max(0, height)
    return common / (box.area_px + (right - left) * (bottom - top) - common)


def _assert_six_faces(analysis: Analysis) -> None:
    assert len(analysis.faces) == 6
    for corners in _FACES_OF_T1:
        assert max(_overlap(face.box, corners) for face in analysis.faces) > 0.5


def test_group_picture_has_six_faces_where_a_viewer_sees_them(engine: FaceEngine) -> None:
    analysis = engine.analyze(group_photo().read_bytes(), max_pixels=MAX_PIXELS)

    assert (analysis.width_px, analysis.height_px) == (1280, 886)
    _assert_six_faces(analysis)


# What a camera stores that was held so: inverse of the turn that the EXIF orientation stands for.
_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotated_group_picture_gives_the_same_faces(engine: FaceEngine, orientation: int) -> None:
    upright = Image.open(group_photo())
    turn = _STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    (upright if turn is None else upright.transpose(turn)).save(stream, "JPEG", quality=95, exif=exif)

    analysis = engine.analyze(stream.getvalue(), max_pixels=MAX_PIXELS, embed="none")

    assert (analysis.width_px, analysis.height_px) == (1280, 886)
    _assert_six_faces(analysis)


def test_faces_are_complete_and_largest_first(engine: FaceEngine) -> None:
    analysis = engine.analyze(group_photo().read_bytes(), max_pixels=MAX_PIXELS)

    areas = [face.box.area_px for face in analysis.faces]
    assert areas == sorted(areas, reverse=True)
    assert analysis.model == engine.pack.manifest.name
    assert analysis.contract == engine.pack.manifest.contract.id
    assert set(analysis.timings_ms) == {"decode", "detect", "embed"}
    for face in analysis.faces:
        assert face.embedding is not None
        assert face.embedding.dtype == np.float32
        assert face.embedding.shape == (engine.pack.manifest.dimension,)
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
        assert face.landmarks.shape == (5, 2)
        assert face.landmarks.dtype == np.float32
        assert face.quality.size_px == min(face.box.w, face.box.h)
        assert 0 <= face.box.x < face.box.x + face.box.w <= 1280
        assert 0 <= face.box.y < face.box.y + face.box.h <= 886


def test_six_people_are_six_people(engine: FaceEngine) -> None:
    faces = engine.analyze(group_photo().read_bytes(), max_pixels=MAX_PIXELS).faces
    embeddings = np.stack([face.embedding for face in faces])

    distances = 1 - embeddings @ embeddings.T

    assert distances[~np.eye(6, dtype=bool)].min() > engine.pack.manifest.calibration.threshold


@pytest.mark.parametrize(("embed", "with_embedding"), [("all", 6), ("largest", 1), ("none", 0)])
def test_only_the_faces_asked_for_are_embedded(engine: FaceEngine, embed: str, with_embedding: int) -> None:
    faces = engine.analyze(group_photo().read_bytes(), max_pixels=MAX_PIXELS, embed=embed).faces

    assert [face.embedding is not None for face in faces] == [True] * with_embedding + [False] * (6 - with_embedding)


def test_the_same_picture_gives_the_same_answer(engine: FaceEngine) -> None:
    first, second = (engine.analyze(group_photo().read_bytes(), max_pixels=MAX_PIXELS).faces for _ in range(2))

    assert [face.box for face in first] == [face.box for face in second]
    assert np.array_equal([face.embedding for face in first], [face.embedding for face in second])


@pytest.mark.parametrize("factor", [0.4, 1, 2, 5])
def test_a_face_is_the_same_person_at_every_size(engine: FaceEngine, factor: float) -> None:
    original = cv2.imread(str(group_photo()))[200:500, 380:680]
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(original, None, fx=factor, fy=factor, interpolation=interpolation)

    (expected,), (found,) = _analyze(engine, original).faces, _analyze(engine, scaled).faces

    box = Box(*(round(side / factor) for side in (found.box.x, found.box.y, found.box.w, found.box.h)))
    corners = (expected.box.x, expected.box.y, expected.box.x + expected.box.w, expected.box.y + expected.box.h)
    assert _overlap(box, corners) > 0.6
    assert 1 - found.embedding @ expected.embedding < engine.pack.manifest.calibration.threshold


def test_a_face_that_fills_the_picture_is_found(engine: FaceEngine) -> None:
    (face,) = engine.analyze(filling_portrait().read_bytes(), max_pixels=MAX_PIXELS).faces

    assert face.box.area_px > 0.4 * 112 * 112


@pytest.mark.parametrize("long_side", [600, 1200, 4000])
def test_a_face_that_fills_a_large_picture_is_found(engine: FaceEngine, long_side: int) -> None:
    image = cv2.resize(cv2.imread(str(filling_portrait())), (long_side, long_side), interpolation=cv2.INTER_CUBIC)

    assert len(_analyze(engine, image, embed="none").faces) == 1


# docs/models.md states this: the face's box is at least this share of the long side, or 40 pixels where that is more.
@pytest.mark.parametrize("long_side", [1000, 2000, 4000])
def test_faces_of_the_stated_size_are_found_in_large_pictures(engine: FaceEngine, long_side: int) -> None:
    face_px = max(40, 0.04 * long_side) * 1.1
    people = cv2.imread(str(group_photo()))[200:500]
    scaled = cv2.resize(people, None, fx=face_px / 105, fy=face_px / 105, interpolation=cv2.INTER_AREA)
    canvas = np.full((long_side * 3 // 4, long_side, 3), 128, np.uint8)
    canvas[100 : 100 + scaled.shape[0], 100 : 100 + scaled.shape[1]] = scaled[:, : long_side - 100]

    # The two of the six whose faces look at the camera, within the strip that was cut.
    found = _analyze(engine, canvas, embed="none").faces
    factor = face_px / 105
    for left, top, right, bottom in (_FACES_OF_T1[2], _FACES_OF_T1[3]):
        place = tuple(round(side * factor) + 100 for side in (left, top - 200, right, bottom - 200))
        if place[2] < long_side:
            assert max((_overlap(face.box, place) for face in found), default=0) > 0.4


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 60_000), (60_000, 1), (20, 8000), (39, 39), (40, 40), (500, 500), (13, 700), (2000, 81)]
)
def test_pictures_without_a_face_have_none(engine: FaceEngine, shape: tuple[int, int]) -> None:
    rows = np.linspace(0, 255, shape[0], dtype=np.uint8)[:, None, None]
    analysis = _analyze(engine, np.broadcast_to(rows, (*shape, 3)).copy())

    assert analysis.faces == ()
    assert (analysis.height_px, analysis.width_px) == shape


def test_noise_has_no_face(engine: FaceEngine) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)

    assert _analyze(engine, noise).faces == ()


def test_forty_faces_are_found_and_each_is_embedded(engine: FaceEngine) -> None:
    paths = [path for person in lfw10().values() for path in person[:4]]
    tiles = [cv2.imread(str(path)) for path in paths]
    sheet = np.vstack([np.hstack(tiles[row * 8 : row * 8 + 8]) for row in range(5)])

    faces = _analyze(engine, sheet).faces

    middles = [(column * 250 + 125, row * 250 + 125) for row in range(5) for column in range(8)]
    inside = [
        any(f.box.x < x < f.box.x + f.box.w and f.box.y < y < f.box.y + f.box.h for f in faces) for x, y in middles
    ]
    assert sum(inside) == 40
    assert all(face.embedding is not None for face in faces)


def test_boxes_are_clipped_to_the_picture(engine: FaceEngine) -> None:
    # The face of the woman on the left, cut off at her ear.
    image = cv2.imread(str(group_photo()))[180:480, 75:375]

    for face in _analyze(engine, image, embed="none").faces:
        assert face.box.x >= 0
        assert face.box.x + face.box.w <= 300


def test_pictures_that_cannot_be_used_are_typed_errors(engine: FaceEngine) -> None:
    picture = group_photo().read_bytes()
    gif = io.BytesIO()
    Image.new("RGB", (50, 50)).save(gif, "GIF")

    with pytest.raises(InvalidImage):
        engine.analyze(picture[: len(picture) // 2], max_pixels=MAX_PIXELS)
    with pytest.raises(UnsupportedImage):
        engine.analyze(gif.getvalue(), max_pixels=MAX_PIXELS)
    with pytest.raises(ImageTooLarge):
        engine.analyze(picture, max_pixels=1280 * 886 - 1)


def test_blurred_faces_fall_below_the_packs_minimum_and_sharp_ones_do_not(engine: FaceEngine) -> None:
    least = engine.pack.manifest.min_sharpness
    for paths in lfw10().values():
        image = cv2.imread(str(paths[0]))
        blurred = cv2.GaussianBlur(image, (0, 0), 4)

        assert _analyze(engine, image, embed="none").faces[0].quality.sharpness > least
        assert all(face.quality.sharpness < least for face in _analyze(engine, blurred, embed="none").faces)


def test_brightness_falls_with_the_light_and_rises_with_it(engine: FaceEngine) -> None:
    for paths in list(lfw10().values())[:3]:
        image = cv2.imread(str(paths[0]))
        dark, usual, bright = (
            _analyze(engine, np.clip(image * factor, 0, 255).astype(np.uint8), embed="none").faces[0].quality.brightness
            for factor in (0.6, 1.0, 1.5)
        )
        assert 0 < dark < usual < bright <= 255


def test_a_face_turns_the_other_way_in_the_mirror(engine: FaceEngine) -> None:
    turns = []
    for paths in lfw10().values():
        image = cv2.imread(str(paths[0]))
        shown = (image, np.ascontiguousarray(image[:, ::-1]))
        turns.append([_analyze(engine, one, embed="none").faces[0].quality.turn for one in shown])
    there, mirrored = np.array(turns).T
    assert np.abs(there + mirrored).mean() < 0.08
    assert 0.05 < np.abs(there).max() < 0.45


def test_no_face_of_lfw10_is_called_blurred(engine: FaceEngine) -> None:
    for paths in lfw10().values():
        for path in paths:
            main = engine.analyze(path.read_bytes(), max_pixels=MAX_PIXELS, embed="none").faces[0]
            assert main.quality.sharpness > engine.pack.manifest.min_sharpness, path.name


@pytest.fixture
def copied_pack(engine: FaceEngine, tmp_path: Path) -> InstalledPack:
    folder = tmp_path / engine.pack.manifest.name
    folder.mkdir()
    for path in engine.pack.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return InstalledPack(folder, engine.pack.manifest)


def test_files_with_another_digest_are_not_loaded(copied_pack: InstalledPack) -> None:
    path = copied_pack.path("embedder")
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(InvalidPack, match=path.name):
        load_engine(copied_pack)


def _with_files(pack: InstalledPack, content: bytes) -> InstalledPack:
    """The pack with other content in every file, its digests put right."""
    import hashlib

    manifest = pack.manifest.model_dump()
    for file in manifest["files"].values():
        (pack.folder / file["name"]).write_bytes(content)
        file["sha256"] = hashlib.sha256(content).hexdigest()
    return InstalledPack(pack.folder, PackManifest.model_validate(manifest))


def test_files_that_are_no_models_are_not_loaded(copied_pack: InstalledPack) -> None:
    with pytest.raises(InvalidPack):
        load_engine(_with_files(copied_pack, b"no model"))


def test_embedder_of_another_dimension_than_announced_is_not_loaded(copied_pack: InstalledPack) -> None:
    manifest = copied_pack.manifest.model_copy(update={"dimension": 512})

    with pytest.raises(InvalidPack, match="128"):
        load_engine(InstalledPack(copied_pack.folder, manifest))
