"""A worker pool of a test's own, started as the service starts it, and clients for it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from app.config import parse_settings
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.embedder.status import WorkerStatus
from app.errors import EmbedderError, FacedexError
from app.vision.faces import Analysis, Embed
from tests import pictures
from tests.embedder.faulty_pool import ENVIRONMENT
from tests.service.running import ROOT, eventually

CLIENTS = 8
# Long enough for a machine that is busy with something else: what is waited for comes, or the test fails.
DEADLINE_S = 30.0
_ENDED_WITHIN_S = 60

T = TypeVar("T")
# What a client gets: faces, or the error that says why not.
Answer = Analysis | FacedexError


class RunningPool:
    """`python -m app.embedder.pool` with a storage folder of its own.

    Args:
        models: folder with the installed packs, which are linked to.
    """

    def __init__(self, storage: Path, models: Path, **settings: object) -> None:
        # A machine that is busy with something else is no overload, unless a test says so.
        self.settings = parse_settings(storage_dir=storage, **{"embedder_queue_s": DEADLINE_S} | settings)
        self.client = EmbedderClient(self.settings.embedder_address)
        self.printed = storage.parent / f"{storage.name}.out"
        self.process: subprocess.Popen[bytes] | None = None
        # What `scripts/serve` prepares.
        self.settings.run_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
        if not self.settings.models_dir.exists():
            shutil.copytree(models, self.settings.models_dir, copy_function=os.link)

    @property
    def size(self) -> int:
        return self.settings.embedder_workers

    @property
    def socket(self) -> Path:
        return Path(self.settings.embedder_address.removeprefix("unix:"))

    def start(self, faults: Mapping[bytes, str] | None = None) -> None:
        """Start it, and wait until every worker is loaded.

        Args:
            faults: what of `faulty_pool` befalls which pictures; with None it is the pool that operators run.
        """
        self.launch(faults)
        self.wait_until_whole()

    def launch(self, faults: Mapping[bytes, str] | None = None) -> None:
        """Start it, and wait for nothing."""
        chosen = self.settings.model_dump(mode="json", include=self.settings.model_fields_set)
        env = {**os.environ, **{name.upper(): str(value) for name, value in chosen.items()}, "PYTHONPATH": str(ROOT)}
        if faults is not None:
            env[ENVIRONMENT] = json.dumps({sha256(image): fault for image, fault in faults.items()})
        module = "app.embedder.pool" if faults is None else "tests.embedder.faulty_pool"
        with self.printed.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module], cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
            )

    def wait_until_whole(self) -> None:
        """Until every worker has its model loaded."""
        eventually(lambda: self.process.poll() is not None or self.loaded() == self.size)
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}"

    def wait_until_idle(self) -> None:
        """Until it knows of every worker that it has done its job, which clients may know a moment earlier."""
        eventually(lambda: not self.busy())

    def said(self) -> str:
        log = self.settings.logs_dir / "embedder.log"
        return self.printed.read_text() + (log.read_text() if log.exists() else "")

    def workers(self) -> tuple[WorkerStatus, ...]:
        return self.client.status(timeout_s=DEADLINE_S).workers

    def busy(self) -> list[WorkerStatus]:
        return [worker for worker in self.workers() if worker.state == "busy"]

    def loaded(self) -> int:
        """How many workers can work; none where nobody answers."""
        try:
            return sum(worker.is_loaded for worker in self.workers())
        except EmbedderError:
            return 0

    def queue_length(self) -> int:
        return self.client.status().queue_length

    def counted(self, name: str, label: str) -> dict[str, int]:
        """A counter's values by one of its labels."""
        counted: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.client.metrics().decode()):
            if family.name == name:
                for sample in family.samples:
                    if sample.name == f"{name}_total" and sample.value:
                        counted[sample.labels[label]] += int(sample.value)
        return dict(counted)

    def jobs(self) -> dict[str, int]:
        """How many jobs came to what end."""
        return self.counted("facedex_pool_jobs", "outcome")

    def deaths(self) -> dict[str, int]:
        """How many workers ended of what."""
        return self.counted("facedex_pool_worker_restarts", "cause")

    def analyze(
        self,
        image: bytes,
        *,
        client: str = "",
        deadline_s: float = DEADLINE_S,
        embed: Embed = "all",
        background: bool = False,
    ) -> Answer:
        """What one client gets."""
        try:
            return self.client.analyze(
                image, deadline=Deadline.after(deadline_s), client=client, embed=embed, background=background
            )
        except FacedexError as error:
            return error

    def end(self, pid: int) -> None:
        """Kill a worker, as the kernel does when memory runs out."""
        os.kill(pid, signal.SIGKILL)

    def family(self) -> list[psutil.Process]:
        """The pool and all its workers."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, and see that nothing is left; the exit code."""
        family = self.family()
        self.process.send_signal(number)
        code = self.process.wait(_ENDED_WITHIN_S)
        assert living(family) == []
        assert not self.socket.exists()
        return code

    def kill(self) -> None:
        """For a test that failed: end what it started."""
        if self.process is not None and self.process.poll() is None:
            family = self.family()
            for process in family:
                process.kill()
            psutil.wait_procs(family, timeout=_ENDED_WITHIN_S)
            self.process.wait()


@contextmanager
def running_pool(
    storage: Path, models: Path, *, faults: Mapping[bytes, str] | None = None, **settings: object
) -> Iterator[RunningPool]:
    """A pool whose workers are loaded, and that ends as it should."""
    pool = RunningPool(storage, models, **settings)
    try:
        pool.start(faults)
        yield pool
        if pool.process.poll() is None:
            assert pool.stop() == 0
    finally:
        pool.kill()


def sha256(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """They stand still for the time being."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def held_up(pool: RunningPool) -> Iterator[Callable[[], None]]:
    """No job comes to an end, until the function that one gets is called."""
    pool.wait_until_idle()
    with ExitStack() as stack:
        stack.enter_context(stopped([worker.pid for worker in pool.workers()]))
        yield stack.close


def living(processes: Sequence[psutil.Process], within_s: float = _ENDED_WITHIN_S) -> list[psutil.Process]:
    """Which of them are still there after that time; one that only nobody has asked after yet is not."""
    until = time.monotonic() + within_s
    left = list(processes)
    while left and time.monotonic() < until:
        left = [process for process in left if _lives(process)]
        time.sleep(0.02)
    return left


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def at_once(*calls: Callable[[], T]) -> list[T]:
    """The results of calls that are all made at the same time."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [running.result() for running in [threads.submit(run, call) for call in calls]]


class Crowd:
    """Clients that ask again and again for one picture after another, until the end of the `with`.

    Where there are enough pictures, no two clients ask for the same one. They pause after each: what they leave of two cores
    has to be enough to load a model beside.

    Attributes:
        answers: of each request its picture's number and what came of it.
    """

    def __init__(self, pool: RunningPool, images: Sequence[bytes], *, seed: int = 4) -> None:
        self.answers: list[tuple[int, Answer]] = []
        self._pool = pool
        self._images = images
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number, seed)) for number in range(CLIENTS)]

    def _ask(self, number: int, seed: int) -> None:
        rng = np.random.default_rng([seed, number])
        own = range(number % len(self._images), len(self._images), len(self._threads))
        while not self._over.is_set():
            which = int(rng.choice(own))
            self.answers.append((which, self._pool.analyze(self._images[which], client=f"client {number}")))
            self._over.wait(rng.uniform(0, 0.3))

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, answers: int) -> None:
        """Until so many more have come."""
        wanted = len(self.answers) + answers
        eventually(lambda: len(self.answers) >= wanted)

    def served(self) -> int:
        """How many got their faces."""
        return sum(not isinstance(answer, FacedexError) for _, answer in list(self.answers))

    def wrong(self, right: Sequence[Analysis]) -> list[Answer]:
        """The answers that are not what they should be; there are some that are."""
        assert self.answers
        return [answer for which, answer in self.answers if not is_same(answer, right[which])]


def is_same(answer: Answer, right: Analysis) -> bool:
    """Whether these are the same faces with the same embeddings."""
    if isinstance(answer, FacedexError) or len(answer.faces) != len(right.faces):
        return False
    return all(
        face.box == other.box and np.array_equal(face.embedding, other.embedding)
        for face, other in zip(answer.faces, right.faces, strict=True)
    )


def faces(count: int, seed: int = 4) -> list[bytes]:
    """Small pictures of one face each, all different."""
    rng = np.random.default_rng(seed)
    photo = Image.open(pictures.group_photo()).convert("RGB")
    corners = [(425, 273), (30, 247), (693, 323), (846, 43), (1085, 256), (231, 143)]
    made = []
    for number in range(count):
        x, y = corners[number % len(corners)]
        left, top = max(0, x - int(rng.integers(30))), max(0, y - int(rng.integers(30)))
        made.append(
            pictures.encode(photo.crop((left, top, left + 200, top + 200)), quality=95 - number // len(corners))
        )
    assert len(set(made)) == count
    return made
