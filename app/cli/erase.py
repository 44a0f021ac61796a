"""`flask erase`, `flask purge` and `flask export-person`: a person out of every place, and all that is held about them."""

import json
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import click

from app.api.wiring import services
from app.cli.common import command_body
from app.db.session import driver_reason
from app.erasure.purge import purge_files, purged
from app.erasure.receipt import Receipt, Remnant
from app.errors import DatabaseError, StorageError

_UNFINISHED_CODE = 3


@click.command("erase")
@click.option("--domain", metavar="NAME", help="The person's domain.")
@click.argument("label", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--purge", "is_purging", is_flag=True, help="Rewrite the database's files as well, as `flask purge` does."
)
@click.option(
    "--finish", "is_finishing", is_flag=True, help="Take up erasures that were broken off, instead of a new one."
)
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
@command_body
def erase(
    domain: str | None, label: str | None, yes: bool, is_purging: bool, is_finishing: bool, as_json: bool
) -> None:
    """Erase the person LABEL, a label or an id, from database, pictures, kept answers and the domain's dataset.

    Prints the receipt. The exit code is 3 where a place could not be seen to: it is noted, and taken up by --finish and by the
    service's next start.
    """
    if is_finishing:
        if domain or label:
            raise click.UsageError("--finish takes neither a domain nor a label.")
        receipts = services().erasure.finish()
    else:
        if not domain or not label:
            raise click.UsageError("Name the domain with --domain, and the person.")
        if not yes:
            click.confirm(f"Erase {label!r} of {domain!r} for good?", abort=True)
        receipts = [services().erasure.erase(domain, label, without_database=True)]
    if is_purging:
        receipts = [_purged(receipt) for receipt in receipts]
    _print(receipts, as_json=as_json, is_list=is_finishing)
    if is_finishing:
        services().erasure.sweep()
    if not all(receipt.is_finished for receipt in receipts):
        raise SystemExit(_UNFINISHED_CODE)


@click.command("purge")
@click.option("--domain", metavar="NAME", help="Only templates of this domain [default: all].")
@command_body
def purge(domain: str | None) -> None:
    """Rewrite the database's files, so that nothing that was deleted is in them any more.

    Searches and enrolments of a domain wait while its own table is rewritten, which for a large one takes minutes. The exit
    code is 3 where something could not be rewritten.
    """
    left = purge_files(services().database, domain, _progress)
    click.echo("\n".join(_lines(left)) or "Nothing of what was deleted is left in the database's files.")
    if left:
        raise SystemExit(_UNFINISHED_CODE)


@click.command("export-person")
@click.option("--domain", required=True, metavar="NAME", help="The person's domain.")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The zip file to write."
)
@click.argument("label")
@command_body
def export_person(domain: str, output: Path, label: str) -> None:
    """Write all that is held about the person LABEL, a label or an id, to a zip file: mode 600, whole or not at all."""
    part = output.with_name(f".{uuid4().hex}.part")
    try:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
            person_id = services().exports.write(domain, label, file)
        part.replace(output)
    except OSError as error:
        raise StorageError(f"The file cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    click.echo(f"Wrote what is held about {person_id} to {output}.")


def _purged(receipt: Receipt) -> Receipt:
    try:
        return purged(receipt, services().database, _progress)
    except DatabaseError as error:  # the person is erased; that is told in any case
        click.echo(f"The database's files could not be rewritten: {error} {driver_reason(error)}", err=True)
        return receipt


def _progress(what: str) -> None:
    click.echo(f"{what} …", err=True)


def _print(receipts: list[Receipt], *, as_json: bool, is_list: bool) -> None:
    if as_json:
        found = [receipt.as_json() for receipt in receipts]
        click.echo(json.dumps(found if is_list else found[0], ensure_ascii=False, indent=2))
        return
    for receipt in receipts:
        click.echo(_text(receipt))
    if not receipts:
        click.echo("No erasure was left unfinished.")


def _text(receipt: Receipt) -> str:
    who = f"person {receipt.person_id}" if receipt.person_id else "what was asked for"
    counts = ", ".join(f"{count} {place}" for place, count in receipt.counts.items()) or "nothing else"
    return "\n".join(
        [
            f"Erased {who} of {receipt.domain!r} at {receipt.erased_at.isoformat()}: {counts}.",
            f"  receipt     {receipt.id}",
            *_lines(receipt.unfinished, "unfinished"),
            *_lines(receipt.remains),
        ]
    )


def _lines(remnants: tuple[Remnant, ...], what: str = "remains") -> list[str]:
    return [f"  {what:<10}  {remnant.place}: {remnant.why}" for remnant in remnants]
