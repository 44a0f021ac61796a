"""`flask domains`: create, list, show, delete."""

import json
from typing import Any

import click
from flask.cli import AppGroup

from app.api.dump import dump_domain, dump_report
from app.api.wiring import services
from app.cli.common import command_body
from app.cli.error_rates import error_rates
from app.enrolment.domains import DomainInfo

domains = AppGroup("domains", help="Create, list, show and delete domains (tenants).")
domains.add_command(error_rates)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_PAGE = 500


@domains.command("create", with_appcontext=False)
@click.argument("name")
@command_body
def create(name: str) -> None:
    """Create the domain NAME for the active model pack."""
    info = services().domains.create(name)
    click.echo(f"Created domain {info.name!r} (id {info.id}) for model {info.model}.")


@domains.command("list", with_appcontext=False)
@_as_json
@command_body
def list_(as_json: bool) -> None:
    """List all domains."""
    found: list[DomainInfo] = []
    cursor: str | None = None
    while True:
        page = services().domains.list(limit=_PAGE, cursor=cursor)
        found += page.items
        if (cursor := page.next_cursor) is None:
            break
    if as_json:
        click.echo(json.dumps([dump_domain(info) for info in found], ensure_ascii=False, indent=2))
        return
    for info in found:
        click.echo(f"{info.id}  {info.name}  {info.embeddings} embeddings  {info.model}")
    if not found:
        click.echo("There are no domains yet.")


@domains.command("show", with_appcontext=False)
@click.argument("name")
@_as_json
@command_body
def show(name: str, as_json: bool) -> None:
    """Report the status of domain NAME."""
    report = dump_report(services().domains.report(name))
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
        return
    index = report["index"]
    click.echo(f"{report['name']} (id {report['id']}, created {report['created_at']})")
    click.echo(f"  persons     {report['persons']}")
    photos = ", ".join(f"{count} {state}" for state, count in report["reference_photos"].items() if count)
    click.echo(f"  old photos  {photos or 'none'}")
    click.echo(f"  embeddings  {report['embeddings']}")
    click.echo(f"  model       {report['model']['name']} ({report['model']['contract']})")
    click.echo(f"  index       {index['state']}, {index['size_bytes']} bytes; searches are {index['search']}")
    click.echo(f"  migrated    {report['migrated_share']:.1%}{_last_run(report['migration'])}")


def _last_run(run: dict[str, Any] | None) -> str:
    if run is None:
        return ""
    rows = f"{run['rows_done']} of {run['rows']} rows of {run['dataset']!r}"
    return f"; last {run['mode']}: {run['state']}, {rows}, {run['migrated']} migrated"


@domains.command("delete", with_appcontext=False)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--with-dataset", is_flag=True, help="Delete its dataset under storage/pkl as well.")
@command_body
def delete(name: str, yes: bool, with_dataset: bool) -> None:
    """Delete domain NAME with all persons, embeddings and stored pictures in it.

    Its PKL dataset, where it has one, stays unless it is to go as well, and then goes on answering for the domain.
    """
    report = services().domains.report(name)
    if not yes:
        click.confirm(f"Delete {report.info.name!r} with {report.persons} persons for good?", abort=True)
    receipt = services().erasure.erase_domain(name, with_dataset=with_dataset)
    click.echo(f"Deleted domain {receipt.domain!r} with {receipt.counts['templates']} embeddings.")
    if receipt.domain in services().datasets.domains() and not with_dataset:
        click.echo("Its dataset is still there, and answers for it; --with-dataset deletes that too.", err=True)
    for remnant in receipt.unfinished:
        click.echo(f"Unfinished: {remnant.place}: {remnant.why}", err=True)


@domains.command("reindex", with_appcontext=False)
@click.argument("name")
@command_body
def reindex(name: str) -> None:
    """Rebuild the index of domain NAME, and count its templates anew, while searches go on."""
    info = services().domains.reindex(name)
    click.echo(f"The index of {info.name!r} is valid; it has {info.embeddings} embeddings.")
