"""Many pictures at a time: some of them in the pool at once, each with an outcome of its own, told as they finish."""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

import structlog

from app.config import Settings
from app.deadline import Deadline
from app.errors import ClientGone, EmbedderError, FacedexError, PoolBusy
from app.vision.faces import Analysis

T = TypeVar("T")

log = structlog.stdlib.get_logger("facedex.embedder")

_LOOK_EVERY_S: Final = 0.1
_BUSY_PAUSE_FIRST_S: Final = 0.02
_BUSY_PAUSE_MAX_S: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of the picture at `index`: `analysis`, else `error`."""

    index: int
    analysis: Analysis | None = None
    error: FacedexError | None = None


def pictures_at_once(settings: Settings, pictures: int) -> int:
    """How many pictures of one request are in the pool at a time: as many as can be worked on. Others have their turns."""
    return max(1, min(pictures, settings.embedder_workers))


def analyze_each(
    items: Sequence[T],
    analyze: Callable[[T, Deadline], Analysis],
    *,
    parallel: int,
    deadline_s: float,
    abandoned: Callable[[], bool] = lambda: False,
) -> Generator[Outcome]:
    """Analyse every item, `parallel` of them at a time, in threads that end with the generator.

    A full queue is waited for, until the picture's deadline. Close the generator to give up: pictures in work are waited for,
    no other is begun.

    Args:
        items: pictures, in whatever form `analyze` takes them.
        analyze: from an item to its faces; called in several threads.
        deadline_s: seconds for each picture, from its turn on.
        abandoned: asked now and then whether nobody wants the outcomes any more.

    Yields:
        one outcome per item, in the order in which they finish.

    Raises:
        ClientGone: `abandoned` said so; some outcomes are missing.
    """
    finished: SimpleQueue[Outcome] = SimpleQueue()
    stop = threading.Event()

    def work(index: int, item: T) -> None:
        try:
            finished.put(Outcome(index, _analyze_patiently(item, analyze, Deadline.after(deadline_s), stop)))
        except FacedexError as error:
            finished.put(Outcome(index, error=_without_frames(error)))
        except Exception:
            # A fault of one picture's, also where nobody foresaw it.
            log.exception("[EMBED] Picture failed", index=index)
            finished.put(Outcome(index, error=EmbedderError("An unexpected error; the log has the details.")))

    with ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="batch") as threads:
        try:
            for index, item in enumerate(items):
                # The copied context has the request id for the log.
                threads.submit(copy_context().run, work, index, item)
            for _ in items:
                yield _next(finished, abandoned)
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)


def _without_frames(error: FacedexError) -> FacedexError:
    """The error alone: the frames that it came through hold the picture, for as long as the outcome is kept."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _next(finished: SimpleQueue[Outcome], abandoned: Callable[[], bool]) -> Outcome:
    while True:
        if abandoned():
            raise ClientGone("The client hung up.")
        with suppress(Empty):
            return finished.get(timeout=_LOOK_EVERY_S)


def _analyze_patiently(
    item: T, analyze: Callable[[T, Deadline], Analysis], deadline: Deadline, stop: threading.Event
) -> Analysis:
    """Wait while the queue is full: a batch fills it by itself, and others come in between."""
    pause_s = _BUSY_PAUSE_FIRST_S
    while True:
        try:
            return analyze(item, deadline)
        except PoolBusy:
            if deadline.remaining_s() <= pause_s or stop.wait(pause_s):
                raise
            pause_s = min(2 * pause_s, _BUSY_PAUSE_MAX_S)
