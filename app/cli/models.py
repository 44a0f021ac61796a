"""`flask models`: list, install, verify and choose model packs."""

import functools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import ParamSpec, TypeVar

import click
from tqdm import tqdm

from app.audit.log import AuditLog
from app.config import Settings, SettingsError, load_settings
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.embedder.client import EmbedderClient
from app.errors import EmbedderError, FacedexError, InvalidPack, LicenseNotAccepted, ModelError
from app.logs import configure_logging
from app.tenancy import acting, everything
from app.vision.catalog import DLIB_LICENCE, INSIGHTFACE_LICENCE, KNOWN_PACKS
from app.vision.packs import DEFAULT_PACK, Licence, PackManifest, PackStore

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Row:
    """One pack as `list` shows it; what a broken manifest does not tell is None.

    Attributes:
        loaded: how many workers of the pool have it loaded; None where no pool answers.
    """

    name: str
    state: str
    active: bool
    loaded: int | None = None
    dimension: int | None = None
    licence: str | None = None
    non_commercial: bool | None = None
    threshold: float | None = None
    contract: str | None = None
    problem: str | None = None


def _one_line_errors(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except LicenseNotAccepted as error:
            raise click.ClickException(f"{error}. Accept it with --accept-license.") from None
        except (FacedexError, SettingsError, OSError) as error:
            raise click.ClickException(str(error)) from None

    return wrapped


@click.group("models")
def models() -> None:
    """Model packs: what finds and embeds faces. Needs no running server."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
@_one_line_errors
def list_packs(as_json: bool) -> None:
    """Show installed packs, and those that can be installed."""
    settings = load_settings()
    loaded = _loaded(EmbedderClient(settings.embedder_address))
    rows = [
        row if loaded is None else replace(row, loaded=loaded[row.name])
        for row in _rows(PackStore(settings.models_dir), settings.face_model)
    ]
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    for row in rows:
        mark, dimension = "*" if row.active else " ", row.dimension or "?"
        workers = f"in {row.loaded} workers" if row.loaded else ""
        click.echo(f"{mark} {row.name:<24} {row.state:<10} {dimension:>5}  {workers:<13} {row.problem or row.licence}")
    click.echo("* is the active pack, used by the next start of the service. The number is the embedding's dimension.")
    if loaded is None:
        click.echo("No worker pool runs with this STORAGE_DIR.")


def _loaded(embedder: EmbedderClient) -> Counter[str] | None:
    """How many workers have each pack loaded; None where no pool answers."""
    try:
        status = embedder.status()
    except EmbedderError:
        return None
    return Counter(worker.model for worker in status.workers if worker.is_loaded)


def _rows(store: PackStore, override: str | None) -> list[_Row]:
    active, installed = store.active_name(override), store.names()
    rows = [_installed_row(store, name, name == active) for name in installed]
    if DEFAULT_PACK not in installed:
        rows.append(_available_row(DEFAULT_PACK, active, 128, DLIB_LICENCE))
    missing = [pack for pack in KNOWN_PACKS.values() if pack.name not in installed]
    return rows + [_available_row(pack.name, active, pack.dimension, INSIGHTFACE_LICENCE) for pack in missing]


def _installed_row(store: PackStore, name: str, active: bool) -> _Row:
    try:
        manifest = store.get(name).manifest
    except ModelError as error:
        return _Row(name, "broken", active, problem=str(error))
    return _Row(
        name=name,
        state="installed",
        active=active,
        dimension=manifest.dimension,
        licence=manifest.licence.name,
        non_commercial=manifest.licence.non_commercial,
        threshold=manifest.calibration.threshold,
        contract=manifest.contract.id,
    )


def _available_row(name: str, active: str, dimension: int, licence: Licence) -> _Row:
    return _Row(
        name=name,
        state="available",
        active=name == active,
        dimension=dimension,
        licence=licence.name,
        non_commercial=licence.non_commercial,
    )


@models.command("install")
@click.argument("name")
@click.option("--from", "source", metavar="PATH_OR_URL", help="A folder, a zip archive, or an archive's https address.")
@click.option("--accept-license", is_flag=True, help="Accept the pack's licence, which is shown otherwise.")
@click.option("--license", "licence", metavar="TEXT", help="The licence of a pack that has no manifest.")
@click.option("--commercial", is_flag=True, help="That licence allows commercial use.")
@click.option(
    "--threshold", type=float, help="Cosine distance up to which two faces are one person's; without manifest."
)
@_one_line_errors
def install(
    name: str, source: str | None, accept_license: bool, licence: str | None, commercial: bool, threshold: float | None
) -> None:
    """Install the pack NAME, whole or not at all; one of that name is replaced."""
    # Only here: these load the model runtime, which the web process, that also has these commands, must not hold.
    from app.vision.install import PackFacts, install_pack

    facts = PackFacts(licence, not commercial, threshold) if licence or commercial or threshold is not None else None
    with tqdm(unit="B", unit_scale=True, desc=name, disable=None, leave=False) as bar:

        def progress(received: int, total: int | None) -> None:
            bar.total = total
            bar.update(received - bar.n)

        pack = install_pack(
            load_settings().models_dir,
            name,
            source=source,
            accept_license=accept_license,
            facts=facts,
            progress=progress,
        )
    _show_installed(pack.manifest)


def _show_installed(manifest: PackManifest) -> None:
    click.echo(f"Installed {manifest.name}: {manifest.title}")
    click.echo(f"  licence    {manifest.licence.name}")
    click.echo(f"  source     {manifest.source}")
    click.echo(f"  threshold  {manifest.calibration.threshold} (cosine distance)")
    for file in manifest.files.values():
        click.echo(f"  {file.sha256}  {file.name}")
    click.echo(f"Make it the active one with `flask --app wsgi models use {manifest.name}`.")


@models.command("verify")
@click.argument("name", required=False)
@_one_line_errors
def verify(name: str | None) -> None:
    """Compare the digests of the pack NAME, or of all installed packs, with those of their installation."""
    store = PackStore(load_settings().models_dir)
    faults = 0
    for each in [name] if name else store.names():
        try:
            store.verify(each)
            click.echo(f"ok     {each}")
        except InvalidPack as error:
            faults += 1
            click.echo(f"WRONG  {each}: {error}")
    if faults:
        raise click.ClickException(f"{faults} broken; install again what is broken.")


@models.command("use")
@click.argument("name")
@_one_line_errors
def use(name: str) -> None:
    """Make the pack NAME the active one."""
    settings = load_settings()
    manifest = PackStore(settings.models_dir).use(name).manifest
    _note_choice(settings, manifest)
    click.echo(f"{name} is the active pack from the next start of the service on.")
    click.echo(
        f"Domains keep the embedding contract they were enrolled with: those of another than {manifest.contract.id} "
        "refuse probes and enrolment until they are enrolled anew, or their pack is active again."
    )
    if settings.face_model and settings.face_model != name:
        click.echo(f"The setting FACE_MODEL={settings.face_model} goes before this choice.", err=True)


def _note_choice(settings: Settings, manifest: PackManifest) -> None:
    """These commands work before there is a database: then the event waits in the spool."""
    configure_logging(settings, level="ERROR")
    with acting(everything("cli")):
        log = AuditLog(settings, Database(settings), CircuitBreaker())
        log.note("model.chosen", {"model": manifest.name, "contract": manifest.contract.id})
