"""`python -m tests.embedder.faulty_pool`: the pool, with an engine that real faults befall on chosen pictures.

FACEDEX_TEST_FAULTS is a JSON object: the SHA-256 of a picture's file → the name of a function below, with `@embed` behind it
where faces that are only looked for are safe.
"""

import ctypes
import hashlib
import json
import os
import sys
import time
from typing import Final

import numpy as np

from app.deadline import Deadline
from app.embedder.pool import main
from app.vision.engine import FaceEngine, load_engine
from app.vision.faces import Analysis, Effort, Embed
from app.vision.packs import InstalledPack
from app.vision.pipeline import unit_rows

ENVIRONMENT: Final = "FACEDEX_TEST_FAULTS"
_MIB: Final = 1024 * 1024
_hoard: list[np.ndarray] = []


def segfault() -> None:
    """Read from where nothing is, in C."""
    ctypes.string_at(0)


def abort() -> None:
    """What a failed assertion in C does."""
    ctypes.CDLL(None).abort()


def hang() -> None:
    """Wait in C for ever, holding the interpreter: no other thread of the process gets to run either."""
    while True:
        ctypes.PyDLL(None).pause()


def bomb() -> None:
    """Take memory without end."""
    while True:
        _take(16)


def leak() -> None:
    """Keep 64 MiB."""
    _take(64)


def dawdle() -> None:
    """Take two seconds longer."""
    time.sleep(2)


def nothing() -> None:
    """Make of a face what no distance can be told to."""
    unit_rows(np.zeros((1, 128), np.float32))


def _take(mib: int) -> None:
    _hoard.append(np.ones(mib * _MIB, dtype=np.uint8))


class FaultyEngine:
    """An engine that does what it is told to a picture before it looks at it."""

    def __init__(self, engine: FaceEngine, faults: dict[str, str]) -> None:
        self._engine = engine
        self._faults = faults

    @property
    def pack(self) -> InstalledPack:
        return self._engine.pack

    def analyze(
        self,
        image_bytes: bytes,
        *,
        max_pixels: int,
        embed: Embed = "all",
        deadline: Deadline,
        effort: Effort = "usual",
    ) -> Analysis:
        name, _, when = self._faults.get(hashlib.sha256(image_bytes).hexdigest(), "").partition("@")
        if name and not (when == "embed" and embed == "none"):
            FAULTS[name]()
        return self._engine.analyze(image_bytes, max_pixels=max_pixels, embed=embed, deadline=deadline, effort=effort)


FAULTS: Final = {fault.__name__: fault for fault in (segfault, abort, hang, bomb, leak, dawdle, nothing)}


def load_faulty(pack: InstalledPack) -> FaceEngine:
    """The pack's engine, with the faults that the environment names."""
    return FaultyEngine(load_engine(pack), json.loads(os.environ[ENVIRONMENT]))


if __name__ == "__main__":
    sys.exit(main(load=load_faulty))
