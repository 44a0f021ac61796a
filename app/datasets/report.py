"""What a migration did, for people and for programs."""

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from app.datasets.deepface import shown
from app.datasets.plan import Plan
from app.errors import FacedexError
from app.tenancy import carried

_POLL_S: Final = 0.5


class Progress(Protocol):
    """Is told how far a migration has come."""

    def stage(self, name: str, total: int | None, done: int = 0) -> None:
        """A stage begins, with `total` rows to do where that is known, `done` of them before this attempt."""
        ...

    def advance(self, rows: int) -> None:
        """More rows of the stage are done."""
        ...


class Silent:
    """Tells nobody."""

    def stage(self, name: str, total: int | None, done: int = 0) -> None:
        """As `Progress.stage`."""

    def advance(self, rows: int) -> None:
        """As `Progress.advance`."""


@contextmanager
def polled(progress: Progress, done: Callable[[], int]) -> Generator[None]:
    """While the block works, ask `done` twice a second how many rows of the stage it has finished, and tell."""
    ended = threading.Event()

    def poll() -> None:
        told = 0
        while not ended.wait(_POLL_S):
            with suppress(FacedexError):  # a bar is not worth an error
                now = done()
                progress.advance(max(0, now - told))
                told = max(told, now)

    thread = threading.Thread(target=carried(poll), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(slots=True)
class Stopwatch:
    """Seconds by stage, and since it was made."""

    seconds: dict[str, float] = field(default_factory=dict)
    _started_s: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        """Since it was made."""
        return time.perf_counter() - self._started_s

    @contextmanager
    def timing(self, stage: str) -> Generator[None]:
        """Add the time that the block takes."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started_s

    def take(self) -> dict[str, float]:
        """What was measured since the last call."""
        taken, self.seconds = self.seconds, {}
        return taken


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What became of a dataset.

    Attributes:
        plan: what was done, and why so.
        dry_run: nothing was written.
        rows: of the dataset.
        resumed_at: rows that earlier attempts had settled.
        migrated: rows that became templates, earlier attempts included; in a dry run, those that would.
        persons: persons that were made; None in a dry run.
        skipped: rows that did not become templates, by reason; with `migrated` they add up to `rows`.
        examples: some identities by reason, of pictures that were left out.
        seconds: by stage, over all attempts, stages that overlap each in full; and `total`, of this attempt from its
            beginning to its end.
    """

    plan: Plan
    dry_run: bool
    rows: int
    resumed_at: int
    migrated: int
    persons: int | None
    skipped: Mapping[str, int]
    examples: Mapping[str, list[str]]
    seconds: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        info = self.plan.info
        return {
            "domain": self.plan.target.domain,
            "dataset": {
                "file": shown(info.path),
                "sha256": info.sha256,
                "form": info.form,
                "model": info.model,
                "detector": info.detector,
            },
            "mode": self.plan.mode,
            "reason": self.plan.reason,
            "dry_run": self.dry_run,
            "rows": self.rows,
            "resumed_at": self.resumed_at,
            "migrated": self.migrated,
            "persons": self.persons,
            "skipped": dict(self.skipped),
            "examples": dict(self.examples),
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
        }

    def as_text(self) -> str:
        """For people."""
        name, info = self.plan.target.domain, self.plan.info
        lines = [
            f"{'Would move' if self.dry_run else 'Moved'} {self.migrated} of {self.rows} rows of {shown(info.path)!r} into"
            f" {name!r} by {self.plan.mode}: {self.plan.reason}."
        ]
        if self.persons is not None:
            lines.append(f"  persons made  {self.persons}")
        if self.resumed_at:
            lines.append(f"  settled before  {self.resumed_at} rows")
        lines += [f"  skipped  {count} {reason}" for reason, count in self.skipped.items()]
        lines += [
            f"    {reason}: {identity}" for reason, identities in self.examples.items() for identity in identities
        ]
        lines.append("  seconds  " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in self.seconds.items()))
        return "\n".join(lines)
