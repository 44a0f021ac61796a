"""What waits for the workers of one model, in two lanes, and who is next. Pure but for the clock that callers read.

Ordinary jobs are those that somebody waits for. Jobs in the background (frames of live sessions, bulk work) take what the
others leave, and a small share of their own, so that no load starves them.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, Literal

from app.embedder.fair_queue import FairQueue
from app.embedder.job import Job
from app.embedder.waiting import Waiting

Lane = Literal["ordinary", "background"]
LANES: Final[tuple[Lane, ...]] = ("ordinary", "background")

# The share of the background while ordinary jobs wait all the time: one job after so many ordinary ones, or after so long.
SHARE_ONE_AFTER: Final = 16
SHARE_ONE_EACH_S: Final = 1.0


def lane_of(job: Job) -> Lane:
    """In which lane it waits."""
    return "background" if job.background else "ordinary"


class Lanes:
    """The two queues of a model, each bounded, fair by client, and with an end to waiting.

    Args:
        capacity, background_capacity: how many may wait in each.
        wait_max_s: how long an ordinary job may. One in the background waits until its deadline.
    """

    def __init__(self, capacity: int, background_capacity: int, *, wait_max_s: float) -> None:
        self._queues: dict[Lane, FairQueue[Waiting]] = {
            "ordinary": FairQueue(capacity),
            "background": FairQueue(background_capacity),
        }
        self._wait_max_s = wait_max_s
        self._served_from_s = math.inf
        self._passed_over = 0
        self._background_given_s = -math.inf
        # By when each has to be out of the queue; those that have left it in time are found out when it is their turn.
        self._ends: list[tuple[float, int, Waiting]] = []
        self._number = count()
        self._inside: set[Waiting] = set()

    def __len__(self) -> int:
        return len(self._inside)

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for queue in self._queues.values() for waiting in queue)

    def __contains__(self, waiting: Waiting) -> bool:
        return waiting in self._inside

    def length(self, lane: Lane) -> int:
        """How many wait in one of them."""
        return len(self._queues[lane])

    def push(self, waiting: Waiting) -> Waiting | None:
        """Add a job; what had to give way for it.

        Raises:
            QueueFull: as `FairQueue.push`.
        """
        evicted = self._queue(waiting).push(waiting.job.client, waiting)
        if evicted is not None:
            self._inside.discard(evicted)
        self._note(waiting)
        return evicted

    def push_first(self, waiting: Waiting) -> None:
        """Add a job that had its place before; whether or not there is room."""
        self._queue(waiting).push_first(waiting.job.client, waiting)
        self._note(waiting)

    def discard(self, waiting: Waiting) -> None:
        """Take out a job, if it is there."""
        self._queue(waiting).discard(waiting.job.client, waiting)
        self._inside.discard(waiting)

    def pop(self, may_go: Callable[[Waiting], bool], *, background_may: bool, now_s: float) -> Waiting | None:
        """Who is next: an ordinary job, unless none may go or it is the background's turn; None where nobody is.

        Args:
            may_go: which jobs may be given to a worker at all now.
            background_may: whether one in the background may.
        """
        order: tuple[Lane, ...] = LANES if not self._is_backgrounds_turn(now_s) else ("background", "ordinary")
        for lane in order:
            if lane == "background" and not background_may:
                continue
            waiting = self._queues[lane].pop(may_go)
            if waiting is not None:
                self._inside.discard(waiting)
                self._count(lane, now_s)
                return waiting
        return None

    def serve_from(self, now_s: float) -> None:
        """Say that a worker is there from now on, where there was none: no overload made them wait so far."""
        self._served_from_s = now_s
        self._ends.clear()
        for waiting in self:
            self._note(waiting)

    def stand_still(self) -> None:
        """Say that there is no worker at the moment: until there is one, only deadlines count."""
        self._served_from_s = math.inf

    def due_s(self, waiting: Waiting) -> float:
        """By when a worker has to have it: its deadline, or for an ordinary job as long as it may wait, if that is sooner."""
        if waiting.job.background:
            return waiting.job.deadline.at_s
        return min(waiting.job.deadline.at_s, max(waiting.since_s, self._served_from_s) + self._wait_max_s)

    def next_due_s(self) -> float:
        """When the next one has waited long enough; infinity where nobody waits."""
        while self._ends:
            at_s, _, waiting = self._ends[0]
            if waiting in self._inside and at_s >= self.due_s(waiting):
                return at_s
            heapq.heappop(self._ends)
            if waiting in self._inside:  # it got more time
                self._note(waiting)
        return math.inf

    def overdue(self, now_s: float) -> list[Waiting]:
        """Those that have waited long enough. They are still in the queue."""
        if self.next_due_s() > now_s:
            return []
        return [waiting for waiting in self if self.due_s(waiting) <= now_s]

    def _queue(self, waiting: Waiting) -> FairQueue[Waiting]:
        return self._queues[lane_of(waiting.job)]

    def _note(self, waiting: Waiting) -> None:
        self._inside.add(waiting)
        heapq.heappush(self._ends, (self.due_s(waiting), next(self._number), waiting))

    def _is_backgrounds_turn(self, now_s: float) -> bool:
        if not self._queues["background"]:
            return False
        since_s = max(self._background_given_s, min(waiting.since_s for waiting in self._queues["background"]))
        return self._passed_over >= SHARE_ONE_AFTER or now_s - since_s >= SHARE_ONE_EACH_S

    def _count(self, lane: Lane, now_s: float) -> None:
        if lane == "background":
            self._passed_over, self._background_given_s = 0, now_s
        elif self._queues["background"]:
            self._passed_over += 1
