"""Which face of a picture is enrolled, and whether it is good enough."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.config import Settings
from app.errors import FaceBlurred, FaceTooSmall, InvalidPack, NoFaceFound, SeveralFaces, UnknownModel
from app.vision.faces import Analysis, Face
from app.vision.packs import PackStore

# The main face has at least this many times the area of the next: a bystander in the background is smaller than that.
MAIN_FACE_AREA_RATIO = 1.5
# A detection this much weaker than the surest one is taken for something else: a badge, a fold of cloth, a poster.
CREDIBLE_SCORE_SHARE = 0.25
# Of an old photo there is no second try: a small face that is told of is better than none.
_OLD_PHOTO_SIZE_SHARE = 0.5
# The same photo saved again, at another size or quality, is nearer to itself than this share of the pack's threshold; two
# photos of one person hardly ever are.
_SAME_PHOTO_SHARE = 0.01

GOOD_SHARE: Final = 2
"""Of what is asked of a template at least, so many times is good."""


class Grade(StrEnum):
    """What a template is worth, in a word."""

    GOOD = "good"
    FAIR = "fair"
    """Enough."""

    POOR = "poor"
    """Smaller or less sharp than what is enrolled now: an old photo, or from before the bounds were raised."""

    UNKNOWN = "unknown"
    """Nobody here has measured it: its picture was never seen, or its model is not installed any more."""


@dataclass(frozen=True, slots=True)
class QualityScale:
    """What is asked of a domain's templates: the shorter side of the box in pixels, sharpness on its pack's scale.

    Attributes:
        min_sharpness: None where the pack is not installed.
    """

    min_face_px: int
    min_sharpness: float | None

    @classmethod
    def of(cls, settings: Settings, packs: PackStore, model: str) -> "QualityScale":
        """That of a domain with this model."""
        try:
            least: float | None = packs.get(model).manifest.min_sharpness
        except (UnknownModel, InvalidPack):
            least = None
        return cls(settings.enrol_min_face_px, least)

    def grade(self, size_px: int, sharpness: float) -> Grade:
        """The grade of a template, as its row has it: zeros where something is not known."""
        if self.min_sharpness is None or size_px <= 0 or sharpness <= 0:
            return Grade.UNKNOWN
        if size_px < self.min_face_px or sharpness < self.min_sharpness:
            return Grade.POOR
        if size_px < GOOD_SHARE * self.min_face_px or sharpness < GOOD_SHARE * self.min_sharpness:
            return Grade.FAIR
        return Grade.GOOD


def is_same_photo(distance: float, threshold: float) -> bool:
    """Whether two faces at this cosine distance are of one photo, in two encodings; `threshold` is the pack's."""
    return distance < _SAME_PHOTO_SHARE * threshold


def main_face(analysis: Analysis) -> Face:
    """The face a picture is about: its only credible one, or the one that is clearly the largest.

    Raises:
        NoFaceFound: there is none.
        SeveralFaces: the two largest are of about the same size.
    """
    if not analysis.faces:
        raise NoFaceFound("No face was found in the picture.")
    least_score = CREDIBLE_SCORE_SHARE * max(face.score for face in analysis.faces)
    first, *others = [face for face in analysis.faces if face.score >= least_score]
    if others and first.box.area_px < MAIN_FACE_AREA_RATIO * others[0].box.area_px:
        raise SeveralFaces(f"{len(others) + 1} faces were found, none of them clearly the main one.")
    return first


def check_quality(face: Face, *, min_face_px: int, min_sharpness: float) -> None:
    """Refuse a face that would make a poor template.

    Args:
        face: the main face.
        min_face_px: least length of the box's shorter side, in pixels.
        min_sharpness: least sharpness, on the pack's scale.

    Raises:
        FaceTooSmall: its box is smaller than `min_face_px`.
        FaceBlurred: it is less sharp than `min_sharpness`.
    """
    if face.quality.size_px < min_face_px:
        raise FaceTooSmall(f"The face is {face.quality.size_px} px wide; at least {min_face_px} px are needed.")
    if face.quality.sharpness < min_sharpness:
        raise FaceBlurred(
            f"The face's sharpness is {face.quality.sharpness:.0f}; at least {min_sharpness:.0f} is needed."
        )


def check_old_photo(face: Face, *, min_face_px: int, min_sharpness: float) -> tuple[str, ...]:
    """Refuse only what is too small for any use; say what else `check_quality` would refuse.

    Args:
        face, min_face_px, min_sharpness: as of `check_quality`.

    Returns:
        the codes of the errors that it would raise.

    Raises:
        FaceTooSmall: its box is smaller than half of `min_face_px`.
    """
    least_px = math.ceil(_OLD_PHOTO_SIZE_SHARE * min_face_px)
    check_quality(face, min_face_px=least_px, min_sharpness=0.0)
    wanting = []
    if face.quality.size_px < min_face_px:
        wanting.append(FaceTooSmall.code)
    if face.quality.sharpness < min_sharpness:
        wanting.append(FaceBlurred.code)
    return tuple(wanting)
