"""`flask enrol DOMAIN FOLDER`: a folder of photos per person into a domain."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from tqdm import tqdm

from app.api.wiring import services
from app.cli.common import command_body
from app.enrolment.faces import FileOutcome
from app.errors import (
    DatabaseUnavailable,
    DomainNotFound,
    EmbedderUnavailable,
    InvalidImage,
    InvalidName,
    PoolBusy,
    UploadTooLarge,
)
from app.names import clean_name
from app.tenancy import carried

# Formats that the service decodes. Other files, such as Thumbs.db, are passed over and counted.
_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"})
_BUSY_PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Photo:
    """A file of the folder and whose it is."""

    path: Path
    label: str


@dataclass(slots=True)
class Report:
    """What became of a folder."""

    enrolled: int = 0
    already: int = 0
    passed_over: list[str] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    persons: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def add(self, photo: Photo, outcome: FileOutcome) -> None:
        """Count one photo."""
        if outcome.error is None:
            self.enrolled += 1
            self.persons.add(photo.label)
        else:
            entry = {"file": _shown(photo.path), "code": outcome.error.code, "detail": str(outcome.error)}
            self.rejected.append(entry)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "enrolled": self.enrolled,
            "persons": len(self.persons),
            "already_enrolled": self.already,
            "rejected": self.rejected,
            "passed_over": self.passed_over,
            "seconds": round(self.seconds, 1),
        }


@click.command("enrol")
@click.argument("domain")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--jobs", type=click.IntRange(1, 64), help="Photos in work at the same time [default: workers + 1].")
@click.option("--only", multiple=True, metavar="GLOB", help="Only files whose name matches, e.g. '*_000[1-7].jpg'.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@command_body
def enrol(domain: str, folder: Path, jobs: int | None, only: tuple[str, ...], as_json: bool) -> None:
    """Enrol the photos of FOLDER, which has one folder per person, into DOMAIN.

    The name of a person's folder becomes the label. The domain is made where it does not exist. Run it again after an
    interruption: what is enrolled already is skipped. The exit code is 0 when every photo was enrolled or skipped, 3 when some
    were rejected.
    """
    _make_domain(domain)
    report = Report()
    photos = list(_photos(folder, only, report))
    if not photos:
        why = f"none matches {' or '.join(only)}" if only else "it needs one folder per person"
        raise click.ClickException(f"No photos were found in {folder}: {why}.")
    started_s = time.monotonic()
    with tqdm(total=len(photos), unit="photo", disable=None) as bar:
        for photo, outcome in _enrol_all(domain, photos, jobs or services().settings.embedder_workers + 1):
            if outcome is None:
                report.already += 1
            else:
                report.add(photo, outcome)
            bar.update()
    report.seconds = time.monotonic() - started_s
    click.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2) if as_json else _text(report))
    if report.rejected:
        raise SystemExit(3)


def _make_domain(name: str) -> None:
    try:
        services().domains.report(name)
    except DomainNotFound:
        info = services().domains.create(name)
        click.echo(f"Created domain {info.name!r} for model {info.model}.", err=True)


def _photos(folder: Path, only: tuple[str, ...], report: Report) -> Iterator[Photo]:
    """The photos, person by person; what is no photo goes into the report."""
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            report.passed_over.append(f"{_shown(Path(entry.name))}: not in a person's folder")
            continue
        try:
            label = clean_name(entry.name, "folder's name")
        except InvalidName as error:
            report.passed_over.append(f"{_shown(Path(entry.name))}: {error}")
            continue
        for path in sorted(path for path in entry.rglob("*") if not path.is_dir()):
            if only and not any(path.match(pattern) for pattern in only):
                continue
            if path.suffix.lower() not in _SUFFIXES:
                report.passed_over.append(f"{_shown(path.relative_to(folder))}: not a picture file")
                continue
            if not path.is_file():
                report.passed_over.append(f"{_shown(path.relative_to(folder))}: a broken link, or no ordinary file")
                continue
            yield Photo(path, label)


def _enrol_all(domain: str, photos: Iterable[Photo], jobs: int) -> Iterator[tuple[Photo, FileOutcome | None]]:
    """Outcomes in order; None for a photo that is enrolled already. Few photos are held in memory at a time."""
    known: dict[str, set[str]] = {}
    app_services = services()

    def work(photo: Photo) -> FileOutcome | None:
        try:
            if photo.path.stat().st_size > app_services.settings.max_upload_bytes:
                return FileOutcome(
                    _shown(photo.path), error=UploadTooLarge("The file is longer than MAX_UPLOAD_BYTES.")
                )
            data = photo.path.read_bytes()
        except OSError as error:
            return FileOutcome(_shown(photo.path), error=InvalidImage(f"The file cannot be read: {error.strerror}."))
        if hashlib.sha256(data).hexdigest() in known[photo.label]:
            return None
        until_s = time.monotonic() + _BUSY_PATIENCE_S
        while True:
            files = [(_shown(photo.path), data)]
            (outcome,) = app_services.faces.enrol(domain, photo.label, files, client="enrol").outcomes
            if isinstance(outcome.error, EmbedderUnavailable | DatabaseUnavailable):
                raise outcome.error  # everything after it would fail too
            if not isinstance(outcome.error, PoolBusy) or time.monotonic() > until_s:
                return outcome
            time.sleep(0.5)  # other clients come first

    waiting = iter(photos)
    running: list[tuple[Photo, Future[FileOutcome | None]]] = []
    with ThreadPoolExecutor(max_workers=jobs) as threads:
        try:
            while True:
                for photo in islice(waiting, jobs * 2 - len(running)):
                    if photo.label not in known:
                        known[photo.label] = app_services.faces.enrolled_digests(domain, photo.label)
                    running.append((photo, threads.submit(carried(work), photo)))
                if not running:
                    return
                photo, future = running.pop(0)
                yield photo, future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _shown(path: Path) -> str:
    """A path for people and for JSON; a name that is no UTF-8 is shown with escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _text(report: Report) -> str:
    lines = [
        f"Enrolled {report.enrolled} photos of {len(report.persons)} persons in {report.seconds:.1f} s;"
        f" {report.already} were enrolled already, {len(report.rejected)} rejected."
    ]
    lines += [f"  rejected  {entry['file']}: {entry['detail']} [{entry['code']}]" for entry in report.rejected]
    lines += [f"  passed over  {entry}" for entry in report.passed_over]
    return "\n".join(lines)
