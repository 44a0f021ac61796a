"""`flask cache-embeddings`: extract the reference photos that wait, of all domains or of one."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import click
from tqdm import tqdm

from app.api.wiring import services
from app.cli.common import command_body
from app.db.references import EXTRACTED, FAILED, WAITING
from app.enrolment.extraction import Extraction
from app.enrolment.references import WaitingPhoto
from app.errors import DatabaseUnavailable, EmbedderUnavailable, ModelUnavailable, PoolBusy
from app.tenancy import carried

_BUSY_PATIENCE_S: Final = 120.0
_GONE: Final = "gone"
# After these, the others would fail too.
_HOPELESS: Final = (EmbedderUnavailable, ModelUnavailable, DatabaseUnavailable)


@dataclass(slots=True)
class Report:
    """What became of the photos."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, photo: WaitingPhoto, extraction: Extraction) -> None:
        """Count one."""
        found = extraction.photo
        self.counts[_GONE if found is None else found.state] += 1
        if found is not None and found.state != EXTRACTED:
            code, detail = found.error_code or "", found.error_message or ""
            if extraction.error is not None:
                code, detail = extraction.error.code, str(extraction.error)
            self.problems.append(
                {"domain": photo.domain, "person": str(photo.person_id), "photo": str(photo.id), "state": found.state}
                | {"code": code, "detail": detail}
            )

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        counts = {state: self.counts[state] for state in (EXTRACTED, FAILED, WAITING, _GONE)}
        return counts | {"problems": self.problems, "seconds": round(self.seconds, 1)}


@click.command("cache-embeddings")
@click.option("--client", metavar="ID", help="Only those of this domain, by name or id.")
@click.option("--failed", is_flag=True, help="Once more also those in which nothing was found.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Photos in work at the same time [default: the workers].")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@command_body
def cache_embeddings(client: str | None, failed: bool, dry_run: bool, jobs: int | None, as_json: bool) -> None:
    """Extract the reference photos that wait, of all domains or of one, through the running worker pool.

    Ordinary requests go first. Run it again after an interruption. The exit code is 0 when every photo was extracted, 3 when
    nothing was found in some, or some wait still.
    """
    photos = services().references.waiting(client, failed=failed)
    if dry_run:
        click.echo(_planned_json(photos) if as_json else _planned(photos))
        return
    report = Report()
    if photos:
        services().embedder.status()  # where there is no pool, say so at once
        started_s = time.monotonic()
        with tqdm(total=len(photos), unit="photo", disable=None) as bar:
            for photo, extraction in _extract_all(photos, jobs or services().settings.embedder_workers, again=failed):
                report.add(photo, extraction)
                bar.update()
        report.seconds = time.monotonic() - started_s
    click.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2) if as_json else _text(report, len(photos)))
    if report.problems:
        raise SystemExit(3)


def _extract_all(
    photos: Sequence[WaitingPhoto], jobs: int, *, again: bool
) -> Iterator[tuple[WaitingPhoto, Extraction]]:
    """What became of each, in order; few are held in memory at a time."""
    references = services().references

    def work(photo: WaitingPhoto) -> Extraction:
        until_s = time.monotonic() + _BUSY_PATIENCE_S
        while True:
            found = references.extract(photo, client="cache-embeddings", again=again)
            if isinstance(found.error, _HOPELESS):
                raise found.error
            if not isinstance(found.error, PoolBusy) or found.elsewhere or time.monotonic() > until_s:
                return found
            time.sleep(0.5)  # ordinary requests come first

    waiting = iter(photos)
    running: list[tuple[WaitingPhoto, Future[Extraction]]] = []
    with ThreadPoolExecutor(max_workers=jobs) as threads:
        try:
            while True:
                for photo in islice(waiting, jobs * 2 - len(running)):
                    running.append((photo, threads.submit(carried(work), photo)))
                if not running:
                    return
                photo, future = running.pop(0)
                yield photo, future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _by_domain(photos: Sequence[WaitingPhoto]) -> dict[str, tuple[int, int]]:
    """Photos and persons."""
    names = dict.fromkeys(photo.domain for photo in photos)
    theirs = {name: [photo for photo in photos if photo.domain == name] for name in names}
    return {name: (len(found), len({photo.person_id for photo in found})) for name, found in theirs.items()}


def _planned(photos: Sequence[WaitingPhoto]) -> str:
    if not photos:
        return "No reference photo waits."
    lines = [f"{name}: {count} photos of {persons} persons" for name, (count, persons) in _by_domain(photos).items()]
    return "\n".join([*lines, f"{len(photos)} photos would be extracted; nothing was done."])


def _planned_json(photos: Sequence[WaitingPhoto]) -> str:
    domains = [
        {"domain": name, "photos": count, "persons": persons} for name, (count, persons) in _by_domain(photos).items()
    ]
    return json.dumps({"photos": len(photos), "domains": domains}, ensure_ascii=False, indent=2)


def _text(report: Report, photos: int) -> str:
    if not photos:
        return "No reference photo waits."
    counts = report.counts
    lines = [
        f"Extracted {counts[EXTRACTED]} of {photos} reference photos in {report.seconds:.1f} s;"
        f" {counts[FAILED]} failed, {counts[WAITING]} wait still, {counts[_GONE]} were deleted meanwhile."
    ]
    lines += [
        f"  {entry['state']}  {entry['domain']}: photo {entry['photo']} of person {entry['person']}: {entry['detail']}"
        f" [{entry['code']}]"
        for entry in report.problems
    ]
    return "\n".join(lines)
