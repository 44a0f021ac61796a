"""Engine of packs of kind `dlib`: HOG detector, five-point landmarks, ResNet embedder as an ONNX graph."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import dlib
import numpy as np

from app.deadline import NO_DEADLINE, Deadline
from app.errors import InvalidPack
from app.vision.boxes import clipped_box
from app.vision.dlib_chip import CHIP_PADDING, CHIP_SIZE_PX
from app.vision.faces import Analysis, Box, Effort, Embed, Face, Float32Array, UInt8Array
from app.vision.packs import InstalledPack
from app.vision.pipeline import check_embedder, run_pipeline
from app.vision.quality import measure
from app.vision.runtime import open_session
from app.vision.strategies import AlignedFace, MinScores

# dlib's frontal detector slides a window of 80 pixels over the picture and over ever smaller copies of it.
_WINDOW_PX = 80
# The smallest face that is looked for: the larger of these. The first bounds how far small pictures are enlarged (to
# double size), the second how large the searched picture can be (2,000 pixels on its long side) and so the time.
MIN_FACE_PX = 40
MIN_FACE_SHARE = 0.04
# Of the faces of lfw10 the least certain has 0.26; what dlib would add below 0.1 are badges and folds of cloth.
MIN_SCORES = MinScores(certain=0.4, strict=0.1, tolerant=0.0)


@dataclass(frozen=True, slots=True)
class _Detection:
    """`rect` in pixels of the full picture, not clipped: the landmark predictor is trained on whole boxes."""

    rect: dlib.rectangle
    box: Box
    score: float


class DlibEngine:
    """Implements `app.vision.engine.FaceEngine`."""

    def __init__(self, pack: InstalledPack) -> None:
        self._pack = pack
        self._session = open_session(pack.path("embedder"))
        self._detector = dlib.get_frontal_face_detector()
        try:
            self._predictor = dlib.shape_predictor(str(pack.path("landmarks")))
        except RuntimeError as error:
            raise InvalidPack("dlib cannot read the landmark predictor of the model pack") from error
        check_embedder(pack, self._embed, CHIP_SIZE_PX)

    @property
    def pack(self) -> InstalledPack:
        """The pack that was loaded."""
        return self._pack

    def analyze(
        self,
        image_bytes: bytes,
        *,
        max_pixels: int,
        embed: Embed = "all",
        deadline: Deadline = NO_DEADLINE,
        effort: Effort = "usual",
    ) -> Analysis:
        """See `app.vision.engine.FaceEngine.analyze`."""
        return run_pipeline(
            self._pack,
            image_bytes,
            max_pixels=max_pixels,
            embed=embed,
            deadline=deadline,
            effort=effort,
            find_faces=self._find_faces,
            scores=MIN_SCORES,
            embed_chips=self._embed,
            chips_at_once=1,  # a batch gains a tenth of the time and multiplies the memory
        )

    def _find_faces(self, image_bgr: UInt8Array, zoom: float, min_score: float) -> list[AlignedFace]:
        return [self._align(image_bgr, detection) for detection in self._detect(image_bgr, zoom, min_score)]

    def _detect(self, image_bgr: UInt8Array, zoom: float, min_score: float) -> list[_Detection]:
        height, width = image_bgr.shape[:2]
        scale = zoom * _WINDOW_PX / max(MIN_FACE_PX, MIN_FACE_SHARE * max(height, width))
        size = round(width * scale), round(height * scale)
        if min(size) < _WINDOW_PX // 2:
            return []  # a stripe too narrow for any face that is looked for
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        searched = cv2.cvtColor(cv2.resize(image_bgr, size, interpolation=interpolation), cv2.COLOR_BGR2RGB)
        rects, scores, _ = self._detector.run(searched, 0, min_score)
        detections = []
        for rect, score in zip(rects, scores, strict=True):
            # dlib's right and bottom are the last pixels inside.
            sides = [side / scale for side in (rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1)]
            box = clipped_box(*sides, width_px=width, height_px=height)
            if box is not None:
                left, top, right, bottom = map(round, sides)
                detections.append(_Detection(dlib.rectangle(left, top, right - 1, bottom - 1), box, float(score)))
        return detections

    def _align(self, image_bgr: UInt8Array, detection: _Detection) -> AlignedFace:
        """The face without embedding, and its chip: uint8, (150, 150, 3), RGB; black outside the picture."""
        rect = detection.rect
        # The chip reaches half a box beyond the box, more when turned: with a box on each side nothing is missed.
        margin = max(rect.width(), rect.height())
        x0, y0 = max(0, rect.left() - margin), max(0, rect.top() - margin)
        crop_bgr = image_bgr[y0 : rect.bottom() + 1 + margin, x0 : rect.right() + 1 + margin]
        crop = cv2.cvtColor(crop_bgr, cv2.COLOR_BGR2RGB)
        shape = self._predictor(crop, dlib.translate_rect(rect, dlib.point(-x0, -y0)))
        chip: UInt8Array = dlib.get_face_chip(crop, shape, CHIP_SIZE_PX, CHIP_PADDING)
        landmarks = np.array([(part.x + x0, part.y + y0) for part in shape.parts()], np.float32)
        # Corners of the eye that is right as seen, those of the other, and the nose.
        eyes = np.stack([landmarks[2:4].mean(axis=0), landmarks[:2].mean(axis=0)])
        quality = measure(min(detection.box.w, detection.box.h), chip, eyes, landmarks[4])
        return Face(detection.box, detection.score, landmarks, quality), chip

    def _embed(self, chips: Sequence[UInt8Array]) -> Float32Array:
        """N >= 1 chips, RGB, to float32, (N, 128), as dlib gives them."""
        return np.asarray(self._session.run(None, {"chips": np.stack(chips)})[0], np.float32)
