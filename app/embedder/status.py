"""What the pool says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker.

    Attributes:
        name: its place in the pool, e.g. `dlib-1`; a process that takes another's place has its name.
        model: name of its pack.
        contract: id of its embedding contract; None where no model is loaded.
        state: `loading`, `idle`, `busy`, or `failed` where the model cannot be loaded.
        pid: its process; None where it is down.
        problem: why the model cannot be loaded.
        jobs: how many the process has done.
        rss_bytes: its memory after the last of them.
        lane: `ordinary` or `background`, of the job that it is working on; None where it has none.
        busy_s: for how long it has been working on its job.
    """

    name: str
    model: str
    contract: str | None
    state: str
    pid: int | None
    problem: str | None
    jobs: int
    rss_bytes: int
    lane: str | None
    busy_s: float

    @property
    def is_loaded(self) -> bool:
        """Whether it can work."""
        return self.state in ("idle", "busy")


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The pool.

    Attributes:
        default_model: name of the pack that is taken where none is asked for.
        workers: all of them.
        queue_length: ordinary jobs that wait.
        background_queue_length: jobs in the background that wait.
        quarantined: pictures that no worker gets any more.
        restarts: since the pool was started, how many workers were replaced, by cause.
        jobs: since then, how many ended, by outcome: `ok`, or the error's code.
    """

    default_model: str
    workers: tuple[WorkerStatus, ...]
    queue_length: int
    background_queue_length: int
    quarantined: int
    restarts: Mapping[str, int] = field(default_factory=dict)
    jobs: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Of what the pool answered."""
        return cls(**data | {"workers": tuple(WorkerStatus(**worker) for worker in data["workers"])})

    @property
    def contract(self) -> str | None:
        """Id of the default model's embedding contract; None where no worker has it loaded."""
        return next((worker.contract for worker in self._default_workers() if worker.is_loaded), None)

    @property
    def model(self) -> str | None:
        """Name of the default model; None where no worker has it loaded."""
        return self.default_model if self.contract is not None else None

    @property
    def problem(self) -> str | None:
        """Why no worker has the default model loaded; None where one has."""
        if self.contract is not None:
            return None
        problems = (worker.problem for worker in self._default_workers())
        return next((problem for problem in problems if problem), "the model is not loaded yet")

    def _default_workers(self) -> list[WorkerStatus]:
        return [worker for worker in self.workers if worker.model == self.default_model]
