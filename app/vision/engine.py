"""The one interface to all packs. Importing this module loads no model runtime; `load_engine` does."""

from typing import Protocol

from app.deadline import NO_DEADLINE, Deadline
from app.vision.faces import Analysis, Effort, Embed
from app.vision.packs import InstalledPack


class FaceEngine(Protocol):
    """A loaded pack: pictures in, faces out. Belongs to one thread of one process; make it after the fork."""

    @property
    def pack(self) -> InstalledPack:
        """The pack that was loaded."""
        ...

    def analyze(
        self,
        image_bytes: bytes,
        *,
        max_pixels: int,
        embed: Embed = "all",
        deadline: Deadline = NO_DEADLINE,
        effort: Effort = "usual",
    ) -> Analysis:
        """Find the faces of one picture and embed them.

        Args:
            image_bytes: a JPEG, PNG, WebP or BMP file.
            max_pixels: largest width times height that is decoded.
            embed: which faces get an embedding: all, the largest only, or none.
            deadline: looked at between the steps; none of them is broken off.
            effort: `thorough` goes on where the usual look finds no face, see `app.vision.strategies`.

        Returns:
            All faces, largest box first; none is an answer, not an error. `timings_ms` has `decode`, `detect`, `embed`.

        Raises:
            InvalidImage, UnsupportedImage, ImageTooLarge: the picture cannot be decoded.
            InvalidEmbedding: the model makes nothing of one of the faces.
            WorkerTimeout: the deadline passed before the last step.
        """
        ...


def load_engine(pack: InstalledPack) -> FaceEngine:
    """Load a pack's models, once its files' digests are right, and run each once so that the first picture is not slow.

    Raises:
        InvalidPack: a file is missing, has another digest, or is not a model of the kind that the manifest announces.
    """
    pack.verify()
    if pack.manifest.kind == "dlib":
        from app.vision.dlib_pack import DlibEngine

        return DlibEngine(pack)
    from app.vision.insightface_pack import InsightfaceEngine

    return InsightfaceEngine(pack)
