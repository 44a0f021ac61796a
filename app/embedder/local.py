"""What a worker does with a picture, in this process: for scripts that ask for it. Importing this loads no model runtime."""

import threading

from app.config import Settings
from app.deadline import Deadline
from app.errors import UnknownModel
from app.vision.engine import load_engine
from app.vision.faces import Analysis, Effort, Embed
from app.vision.packs import PackStore

_HOW_TO_PREPARE = "start scripts/serve once, or run `flask --app wsgi models install dlib`"


class LocalEmbedder:
    """One loaded model, which takes one picture at a time.

    Raises:
        UnknownModel: no such pack is installed; the message names those that are, or how to get the first.
        InvalidPack: its files are damaged.
    """

    def __init__(self, settings: Settings, model: str | None = None) -> None:
        store = PackStore(settings.models_dir)
        if not store.names():
            raise UnknownModel(f"No model pack is installed in this storage folder yet: {_HOW_TO_PREPARE}.")
        self._max_pixels = settings.max_image_pixels
        self._engine = load_engine(store.get(model) if model else store.active(settings.face_model))
        self._lock = threading.Lock()

    def analyze(self, image: bytes, *, deadline: Deadline, embed: Embed = "all", effort: Effort = "usual") -> Analysis:
        """Detect and embed the faces of one picture. Nothing can stop native code: the deadline is looked at in between.

        Raises:
            ImageError: the picture cannot be read.
            WorkerTimeout: the deadline passed.
        """
        with self._lock:  # an engine belongs to one thread at a time
            return self._engine.analyze(
                image, max_pixels=self._max_pixels, embed=embed, deadline=deadline, effort=effort
            )
