"""Engine of packs of kind `insightface`: SCRFD detector and ArcFace-shaped embedder, run by that package's classes."""

from collections.abc import Sequence

import cv2
import numpy as np
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.scrfd import SCRFD

from app.deadline import NO_DEADLINE, Deadline
from app.errors import InvalidPack
from app.vision.alignment import CHIP_SIZE_PX, align_face, fits_template
from app.vision.boxes import clipped_box
from app.vision.faces import Analysis, Embed, Face, Float32Array, UInt8Array
from app.vision.memory import is_lack_of_memory
from app.vision.packs import InstalledPack
from app.vision.pipeline import AlignedFace, check_embedder, run_pipeline
from app.vision.quality import measure
from app.vision.runtime import open_session

_MIN_SCORE = 0.5
# SCRFD sees faces of some 20 to 300 pixels, whatever the size of the picture it is given. So the picture is searched at
# the size where the faces asked for are that large: (long side of the picture up to, long side when searched).
_SEARCH_SIDES = ((640, 320), (1280, 640))
_LARGEST_SEARCH_SIDE = 960
# From 640 on, faces that fill the picture are too large to be seen. A second look at a quarter of the size, which takes
# a sixteenth of the time, finds them; at 320 one look finds both.
_COARSE_FROM_SIDE = 640
_COARSE = 4
_STRIDE = 32
_MIN_SHORT_SIDE_PX = 12
# Faces embedded at a time: more gain no time, and of a crowd's the memory would have no bound.
_BATCH = 16


class InsightfaceEngine:
    """Implements `app.vision.engine.FaceEngine`."""

    def __init__(self, pack: InstalledPack) -> None:
        self._pack = pack
        self._detector = _load_detector(pack)
        self._embedder = _load_embedder(pack)
        # A model with a fixed batch takes one face at a time.
        self._chips_at_once = 1 if isinstance(self._embedder.input_shape[0], int) else _BATCH
        check_embedder(pack, self._embed, CHIP_SIZE_PX)
        try:
            self._find_faces(np.zeros((CHIP_SIZE_PX, CHIP_SIZE_PX, 3), np.uint8))
        except Exception as error:  # what the runtime makes of a graph of another kind has no common class
            if is_lack_of_memory(error):
                raise MemoryError from error
            raise InvalidPack(f"The detector of model pack {pack.manifest.name} takes no pictures") from error

    @property
    def pack(self) -> InstalledPack:
        """The pack that was loaded."""
        return self._pack

    def analyze(
        self, image_bytes: bytes, *, max_pixels: int, embed: Embed = "all", deadline: Deadline = NO_DEADLINE
    ) -> Analysis:
        """See `app.vision.engine.FaceEngine.analyze`."""
        return run_pipeline(
            self._pack,
            image_bytes,
            max_pixels=max_pixels,
            embed=embed,
            deadline=deadline,
            find_faces=self._find_faces,
            embed_chips=self._embed,
            chips_at_once=self._chips_at_once,
        )

    def _find_faces(self, image_bgr: UInt8Array) -> list[AlignedFace]:
        height, width = image_bgr.shape[:2]
        scale = self._search_side(max(height, width)) / max(height, width)
        if min(height, width) * scale < _MIN_SHORT_SIDE_PX:
            return []  # a stripe too narrow for any face that is looked for
        searched, sizes = self._searched_picture(image_bgr, scale)
        detections, landmarks = self._detector.detect(searched, input_size=sizes, det_thresh=_MIN_SCORE)
        found = (
            _aligned_face(image_bgr, detection[:4] / scale, float(detection[4]), points / scale)
            for detection, points in zip(detections, landmarks, strict=True)
        )
        return [face for face in found if face is not None]

    def _search_side(self, long_side: int) -> int:
        if self._detector.static_input_size is not None:
            return int(min(self._detector.static_input_size))
        return next((side for up_to, side in _SEARCH_SIDES if long_side <= up_to), _LARGEST_SEARCH_SIDE)

    def _searched_picture(self, image_bgr: UInt8Array, scale: float) -> tuple[UInt8Array, list[tuple[int, int]]]:
        """The picture scaled, black below and right of it, and the sizes (width, height) at which it is searched."""
        width, height = (max(1, round(side * scale)) for side in image_bgr.shape[1::-1])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        fixed = self._detector.static_input_size
        size = fixed or (_to_stride(width), _to_stride(height))
        canvas = np.zeros((size[1], size[0], 3), np.uint8)
        canvas[:height, :width] = cv2.resize(image_bgr, (width, height), interpolation=interpolation)
        if fixed or max(width, height) < _COARSE_FROM_SIDE:
            return canvas, [size]
        return canvas, [size, (_to_stride(width // _COARSE), _to_stride(height // _COARSE))]

    def _embed(self, chips: Sequence[UInt8Array]) -> Float32Array:
        """N >= 1 chips, BGR, to float32, (N, D), of any length."""
        return np.asarray(self._embedder.get_feat(list(chips)), np.float32)


def _aligned_face(
    image_bgr: UInt8Array, corners: Float32Array, score: float, landmarks: Float32Array
) -> AlignedFace | None:
    height, width = image_bgr.shape[:2]
    box = clipped_box(*corners.tolist(), width_px=width, height_px=height)
    if box is None or not fits_template(landmarks):
        return None
    chip = align_face(image_bgr, landmarks)
    quality = measure(min(box.w, box.h), chip, landmarks[:2], landmarks[2])
    return Face(box, score, landmarks.astype(np.float32), quality), chip


def _to_stride(side: int) -> int:
    """The next multiple of the detector's coarsest stride."""
    return max(1, -(-side // _STRIDE)) * _STRIDE


def _load_detector(pack: InstalledPack) -> SCRFD:
    path = pack.path("detector")
    # Without `static_shape_sessions` one session serves every size; with it each new size would load the model again.
    detector = SCRFD(str(path), session=open_session(path), static_shape_sessions=False)
    if not detector.use_kps:
        raise InvalidPack(f"The detector of model pack {pack.manifest.name} gives no landmarks")
    return detector


def _load_embedder(pack: InstalledPack) -> ArcFaceONNX:
    path = pack.path("embedder")
    session = open_session(path)
    if len(session.get_outputs()) != 1 or session.get_inputs()[0].shape[2:] != [CHIP_SIZE_PX, CHIP_SIZE_PX]:
        raise InvalidPack(f"The embedder of model pack {pack.manifest.name} does not take faces of 112 x 112 pixels")
    return ArcFaceONNX(str(path), session=session)
