"""The engine by itself, without a pool: here, or one each in several processes at a time."""

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import cv2

from app.vision.engine import FaceEngine, load_engine
from app.vision.packs import PackStore

MAX_PIXELS = 64_000_000


def open_engine(models_dir: Path) -> FaceEngine:
    """The default pack's, as a worker of the pool loads it."""
    cv2.setNumThreads(1)
    return load_engine(PackStore(models_dir).active(None))


class EngineProcesses:
    """A process per engine, all of which work at the same time."""

    def __init__(self, count: int, models_dir: Path, pictures: Sequence[bytes]) -> None:
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(count)]
        self._ends = [ours for ours, _ in pairs]
        self._processes = [
            context.Process(target=_serve, args=(theirs, models_dir, pictures, number))
            for number, (_, theirs) in enumerate(pairs)
        ]
        for process in self._processes:
            process.start()

    def __enter__(self) -> "EngineProcesses":
        for end in self._ends:
            end.recv()  # loaded
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join()

    def run(self, seconds: float) -> tuple[float, float]:
        """Work for that long; pictures a second of all of them together, and processor seconds a picture."""
        for end in self._ends:
            end.send(seconds)
        rates, costs = zip(*(end.recv() for end in self._ends), strict=True)
        return sum(rates), sum(costs) / len(costs)


def _serve(end: Connection, models_dir: Path, pictures: Sequence[bytes], offset: int) -> None:
    engine = open_engine(models_dir)
    end.send("loaded")
    while (seconds := end.recv()) is not None:
        done, started_s, cpu_s = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - started_s < seconds:
            engine.analyze(pictures[(offset + done) % len(pictures)], max_pixels=MAX_PIXELS)
            done += 1
        end.send((done / (time.perf_counter() - started_s), (time.process_time() - cpu_s) / done))
