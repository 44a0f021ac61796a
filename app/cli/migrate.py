"""`flask migrate-pkl` and `flask export-pkl`: DeepFace datasets into domains, and back."""

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import click
from tqdm import tqdm

from app.api.wiring import Services, services
from app.cli.common import command_body
from app.datasets.attempt import Order
from app.datasets.export import export_domain
from app.datasets.migrate import migrate
from app.datasets.plan import MODES, Mode
from app.datasets.reembedding import Pictures
from app.datasets.report import MigrationReport
from app.enrolment.quality import check_quality, main_face
from app.errors import FacedexError
from app.names import clean_name
from app.recognition.verify import Verification, verify_migration
from app.vision.faces import Analysis, Face
from app.vision.packs import PackManifest

_OPTIONS: Final = (
    click.option("--domain", required=True, metavar="NAME", help="Domain to fill; made where it does not exist."),
    click.option(
        "--path",
        required=True,
        type=click.Path(exists=True, path_type=Path),
        help="The dataset (.pkl or .npz), or a folder with exactly one.",
    ),
    click.option(
        "--images",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder with the dataset's pictures, to embed them anew.",
    ),
    click.option(
        "--mode",
        type=click.Choice(MODES),
        default="auto",
        show_default=True,
        help="copy the vectors, or reembed the pictures; auto copies where the model is the same.",
    ),
    click.option(
        "--batch-size", type=click.IntRange(1, 100_000), help="Rows in a transaction [default: copy 5000, reembed 64]."
    ),
    click.option("--dry-run", is_flag=True, help="Read and report; write nothing."),
    click.option(
        "--resume",
        is_flag=True,
        help="Only go on with a migration that was broken off; without it, that is done as well.",
    ),
    click.option("--keep-going", is_flag=True, help="Pass over pictures that are missing or that a worker died of."),
    click.option("--allow-numpy", is_flag=True, help="Read the form of DeepFace before 0.0.51 (PKL_ALLOW_NUMPY)."),
    click.option("--verify", is_flag=True, help="Then ask both services the same, and compare their answers."),
    click.option(
        "--probes",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="With --verify: photos to ask with, instead of the dataset's own templates.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
)


def migrate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a migration, for `flask migrate-pkl` and for `scripts/migrate_pkl.py`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("migrate-pkl")
@migrate_options
@command_body
def migrate_pkl(**options: Any) -> None:
    """Move a DeepFace dataset into a domain.

    Run it again after an interruption, with the same dataset: it goes on where it was, and the same set comes of it. While a
    first migration runs, the domain is answered from its dataset under storage/pkl, where it has one.
    """
    run_migration(services(), **options)


def run_migration(
    found: Services,
    *,
    domain: str,
    path: Path,
    images: Path | None,
    mode: Literal["auto"] | Mode,
    batch_size: int | None,
    dry_run: bool,
    resume: bool,
    keep_going: bool,
    allow_numpy: bool,
    verify: bool,
    probes: Path | None,
    as_json: bool,
) -> None:
    """Migrate, verify where that is asked for, and print the report.

    Raises:
        FacedexError: as `migrate` and `verify_migration`.
    """
    pack = found.active_pack().manifest
    order = Order(
        domain=clean_name(domain, "domain name"),
        path=path,
        pack=pack,
        mode=mode,
        batch_rows=batch_size,
        dry_run=dry_run,
        resume=resume,
        allow_numpy=allow_numpy or found.settings.pkl_allow_numpy,
        pictures=_pictures(found, pack, images, keep_going=keep_going) if images else None,
    )
    with _Bars() as bars:
        report = migrate(order, found.database, bars)
    verification: Verification | FacedexError | None = None
    if verify and not dry_run:
        try:
            verification = verify_migration(
                found.settings,
                found.database,
                found.embedder,
                found.packs,
                report.plan,
                probes,
                allow_numpy=order.allow_numpy,
            )
        except FacedexError as error:
            verification = error  # what was moved is moved, and is told all the same
    _print(report, verification, as_json=as_json)
    if isinstance(verification, FacedexError):
        raise verification


def _pictures(found: Services, pack: PackManifest, images: Path, *, keep_going: bool) -> Pictures:
    settings = found.settings

    def choose(analysis: Analysis) -> Face:
        face = main_face(analysis)
        check_quality(face, min_face_px=settings.enrol_min_face_px, min_sharpness=pack.min_sharpness)
        return face

    return Pictures(
        images=images.resolve(),
        embedder=found.embedder,
        choose=choose,
        parallel=settings.embedder_workers + 1,
        deadline_s=settings.request_deadline_s,
        max_bytes=settings.max_upload_bytes,
        keep_going=keep_going,
    )


def _print(report: MigrationReport, verification: Verification | FacedexError | None, *, as_json: bool) -> None:
    if as_json:
        found = report.as_json()
        if isinstance(verification, FacedexError):
            found["verification"] = {"error": verification.code, "detail": str(verification)}
        elif verification is not None:
            found["verification"] = verification.as_json()
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    click.echo(report.as_text())
    if isinstance(verification, Verification):
        click.echo(verification.as_text())


class _Bars:
    """A progress bar for each stage, with rate and time left where the end is known; none where nobody looks."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def stage(self, name: str, total: int | None, done: int = 0) -> None:
        """As `Progress.stage`."""
        self._close()
        self._bar = tqdm(total=total, initial=done, desc=name, unit="row", unit_scale=True, disable=None)

    def advance(self, rows: int) -> None:
        """As `Progress.advance`."""
        if self._bar is not None:
            self._bar.update(rows)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@click.command("export-pkl")
@click.option("--domain", required=True, metavar="NAME", help="Domain to export.")
@click.option(
    "--path",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the file, which gets DeepFace's name for it; or a file of such a name.",
)
@click.option(
    "--form",
    type=click.Choice(("pkl", "npz")),
    help="For DeepFace before 0.0.103, or from then on [default: the name's].",
)
@click.option("--force", is_flag=True, help="Replace the file where it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@command_body
def export_pkl(domain: str, path: Path, form: Literal["pkl", "npz"] | None, force: bool, as_json: bool) -> None:
    """Write a domain as a dataset that DeepFace and the PKL service read, for a rollback that keeps what was enrolled."""
    export = export_domain(services().database, clean_name(domain, "domain name"), path, form=form, replace=force)
    counts = {"templates": export.rows, "persons": export.persons}
    services().audit.note("domain.exported", counts, domain=export.domain)
    if as_json:
        click.echo(json.dumps(export.as_json(), ensure_ascii=False, indent=2))
    else:
        click.echo(f"Wrote {export.rows} templates of {export.persons} persons of {export.domain!r} to {export.path}.")
