"""Recognition on this machine: a model pack and the gallery."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from app.edge.cameras.frame import Frame
from app.edge.clock import Clock
from app.edge.errors import ConfigError, GalleryError, RecognizeError
from app.edge.recognition import AMBIGUOUS, UNKNOWN, Recognized, best_of_each
from app.edge.snapshot import Match, Snapshot
from app.errors import FacedexError
from app.vision.faces import Analysis
from app.vision.packs import InstalledPack, PackStore


class Analyzer(Protocol):
    """What is needed of a `FaceEngine`."""

    def analyze(self, image_bytes: bytes, *, max_pixels: int) -> Analysis:
        """As `FaceEngine.analyze`."""
        ...


def find_pack(models_dir: Path, name: str) -> InstalledPack:
    """The installed pack.

    Raises:
        ConfigError: there is none of that name, or it is damaged.
    """
    try:
        return PackStore(models_dir).get(name)
    except FacedexError as error:
        raise ConfigError(f"recognition.pack: {error}") from None


class LocalRecognizer:
    """A pack, loaded once, in a thread of its own: an engine belongs to one.

    Args:
        load: makes the engine, in the thread that it belongs to.
        threshold: largest cosine distance that counts.
        margin: least lead, in distance, of the first member over the second.

    Raises:
        ConfigError: the pack's files are not what they should be.
    """

    def __init__(
        self,
        load: Callable[[], Analyzer],
        snapshot: Callable[[], Snapshot],
        clock: Clock,
        *,
        threshold: float,
        margin: float,
        max_pixels: int,
    ) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._threshold = threshold
        self._margin = margin
        self._max_pixels = max_pixels
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        try:
            self._engine = self._thread.submit(load).result()
        except FacedexError as error:
            self._thread.shutdown()
            raise ConfigError(f"recognition.pack: {error}") from None

    def recognize(self, frame: Frame) -> Recognized:
        """As `Recognizer.recognize`.

        Raises:
            RecognizeError: the picture cannot be decoded, or the gallery's templates are another model's.
        """
        return self._thread.submit(self._recognize, frame.encoded()).result()

    def close(self) -> None:
        """Its thread; the model goes with it."""
        self._thread.shutdown()

    def _recognize(self, picture: bytes) -> Recognized:
        try:
            analysis = self._engine.analyze(picture, max_pixels=self._max_pixels)
        except FacedexError as error:
            raise RecognizeError(f"The picture cannot be used ({error.code}).") from None
        except MemoryError:
            raise RecognizeError("There is not enough memory for the picture.") from None
        started_s = time.perf_counter()
        snapshot = self._snapshot()
        if snapshot.contract != analysis.contract:
            raise RecognizeError(f"The gallery's templates are {snapshot.contract}, the pack's {analysis.contract}.")
        matches: list[Match] = []
        nobody: Counter[str] = Counter()
        now = self._clock.now()
        for face in analysis.faces:
            if face.embedding is None:
                continue
            try:
                found = snapshot.match(face.embedding, now=now, top_k=2)
            except GalleryError:
                found = []
            if reason := judge(found, self._threshold, self._margin):
                nobody[reason] += 1
            else:
                matches.append(found[0])
        seconds = {step: elapsed_ms / 1000 for step, elapsed_ms in analysis.timings_ms.items()}
        seconds["match"] = time.perf_counter() - started_s
        return Recognized(best_of_each(matches), len(analysis.faces), "local", nobody, seconds)


def judge(found: list[Match], threshold: float, margin: float) -> str | None:
    """Why the first of the members found is not the one; None where they are.

    Args:
        found: nearest first, one per member.
    """
    if not found or found[0].distance > threshold:
        return UNKNOWN
    if len(found) > 1 and found[1].distance - found[0].distance < margin:
        return AMBIGUOUS
    return None
