"""`flask persons`: list, show, merge, find those who were enrolled twice, and faces that are somebody else's."""

import json
import math
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import click
from flask.cli import AppGroup
from tqdm import tqdm

from app.api.dump import dump_outlier, dump_pair, dump_person
from app.api.wiring import services
from app.cli.common import command_body
from app.enrolment.duplicates import DuplicatePage
from app.enrolment.lookup import PersonInfo
from app.enrolment.outliers import OutlierPage

persons = AppGroup("persons", help="List, show and merge persons; find those enrolled twice, and faces of others.")
_domain = click.option("--domain", required=True, help="The domain, by name or id.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_PAGE = 500


@persons.command("list", with_appcontext=False)
@_domain
@click.option("--search", help="Only those whose label, display name or external id contains this.")
@_as_json
@command_body
def list_(domain: str, search: str | None, as_json: bool) -> None:
    """List the persons of a domain by label."""
    found = list(_all(domain, search))
    if as_json:
        click.echo(_json([dump_person(info) for info in found]))
        return
    for info in found:
        click.echo(_line(info))
    if not found:
        click.echo("There are none.")


@persons.command("show", with_appcontext=False)
@click.argument("label")
@_domain
@_as_json
@command_body
def show(label: str, domain: str, as_json: bool) -> None:
    """Show the person LABEL, who may be named by an external id or an id too."""
    info = services().persons.get(domain, label)
    if as_json:
        click.echo(_json(dump_person(info)))
        return
    click.echo(_line(info))
    click.echo(f"  external id  {info.external_id or '-'}")
    click.echo(f"  valid        {'now' if info.valid else 'not now'}; from {_moment(info.valid_from)} until", nl=False)
    click.echo(f" {_moment(info.valid_until)}")
    photos = info.reference_photos
    told = f"{photos.waiting} waiting, {photos.extracted} extracted, {photos.failed} failed" if photos.total else "none"
    click.echo(f"  old photos   {told}")
    click.echo(f"  metadata     {json.dumps(info.metadata, ensure_ascii=False)}")


@persons.command("merge", with_appcontext=False)
@click.argument("label")
@click.argument("other")
@_domain
@click.option("--yes", is_flag=True, help="Do not ask.")
@command_body
def merge(label: str, other: str, domain: str, yes: bool) -> None:
    """Give the faces of OTHER to LABEL, and forget OTHER."""
    if not yes:
        kept, gone = (services().persons.get(domain, name) for name in (label, other))
        click.confirm(f"Merge {gone.label!r} ({gone.faces} faces) into {kept.label!r} for good?", abort=True)
    merged = services().merging.merge(domain, label, other)
    click.echo(
        f"Merged into {merged.person.label!r}: {merged.moved} faces moved, {merged.dropped} were there already;"
        f" {merged.person.faces} faces now."
    )


@persons.command("duplicates", with_appcontext=False)
@_domain
@click.option(
    "--threshold",
    type=click.FloatRange(0, 2, min_open=True),
    help="Largest cosine distance of a pair [default: the model pack's].",
)
@_as_json
@command_body
def duplicates(domain: str, threshold: float | None, as_json: bool) -> None:
    """Compare all persons of a domain with each other, and list pairs who may be one, nearest first."""
    if threshold is not None and not math.isfinite(threshold):
        raise click.BadParameter("is not a number", param_hint="--threshold")
    total = services().domains.report(domain).persons
    pages: list[DuplicatePage] = []
    with tqdm(total=total, unit="person", disable=None) as bar:
        for page in _duplicates(domain, threshold):
            pages.append(page)
            bar.update(page.examined)
    pairs = sorted((pair for page in pages for pair in page.pairs), key=lambda pair: pair.distance)
    pictured = frozenset[UUID]().union(*(page.pictured for page in pages))
    if any(page.truncated for page in pages):
        click.echo("Some pairs are left out: there are too many. Choose a smaller threshold.", err=True)
    if as_json:
        click.echo(_json([dump_pair(pair, pictured) for pair in pairs]))
        return
    for pair in pairs:
        click.echo(
            f"{pair.distance:.4f}  {pair.first.label!r} ({pair.first.id})  {pair.second.label!r} ({pair.second.id})"
        )
    if not pairs:
        click.echo("No two persons are near to each other.")


@persons.command("outliers", with_appcontext=False)
@_domain
@_as_json
@command_body
def outliers(domain: str, as_json: bool) -> None:
    """List faces that are far from the others of their person, farthest first: somebody else's, or of a bad picture."""
    total = services().domains.report(domain).persons
    pages: list[OutlierPage] = []
    with tqdm(total=total, unit="person", disable=None) as bar:
        for page in _outliers(domain):
            pages.append(page)
            bar.update(page.examined)
    found = sorted((one for page in pages for one in page.outliers), key=lambda one: -one.distance)
    if any(page.truncated for page in pages):
        click.echo("Some are left out: there are too many.", err=True)
    if as_json:
        click.echo(_json([dump_outlier(one) for one in found]))
        return
    for one in found:
        like = f"  resembles {one.resembles.label!r}" if one.resembles else ""
        click.echo(f"{one.distance:.4f}  {one.person.label!r}  face {one.face_id} of {one.templates}{like}")
    if not found:
        click.echo("No face is far from the others of its person.")


def _all(domain: str, search: str | None) -> Iterator[PersonInfo]:
    cursor: str | None = None
    while True:
        page = services().directory.list(domain, limit=_PAGE, cursor=cursor, contains=search)
        yield from (person.info for person in page.items)
        if (cursor := page.next_cursor) is None:
            return


def _duplicates(domain: str, threshold: float | None) -> Iterator[DuplicatePage]:
    cursor: str | None = None
    while True:
        page = services().duplicates.find(domain, limit=_PAGE, cursor=cursor, threshold=threshold)
        yield page
        if (cursor := page.next_cursor) is None:
            return


def _outliers(domain: str) -> Iterator[OutlierPage]:
    cursor: str | None = None
    while True:
        page = services().outliers.find(domain, limit=_PAGE, cursor=cursor)
        yield page
        if (cursor := page.next_cursor) is None:
            return


def _line(info: PersonInfo) -> str:
    named = "" if info.display_name == info.label else f" ({info.display_name})"
    return f"{info.id}  {info.label}{named}  {info.faces} faces{'' if info.valid else '  not valid now'}"


def _moment(moment: Any) -> str:
    return "ever" if moment is None else str(moment.isoformat())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
