"""`flask audit`: verify, export, prune the chains of events."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import click
from flask.cli import AppGroup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.wiring import services
from app.audit.examination import examine, missing_chains
from app.audit.export import export_lines, find_break_in_file, parse_anchor
from app.audit.reading import ChainInfo, chain_of, chains, snapshot
from app.audit.retention import prune_all
from app.audit.verify import Anchor
from app.cli.common import command_body
from app.db.models import Domain
from app.enrolment.lookup import find_domain
from app.errors import DomainNotFound

audit = AppGroup("audit", help="Verify and export what was done, by whom.")

_domain = click.option("--domain", help="A domain's name, or its id, which finds a deleted one too.")
_installation = click.option("--installation", is_flag=True, help="The events that belong to no domain.")
_moment = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])


@audit.command("verify", with_appcontext=False)
@_domain
@_installation
@click.option("--head", help="SEQ:HASH as `flask audit head` once said; needs one chain.")
@click.option("--file", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An exported file.")
@command_body
def verify(domain: str | None, installation: bool, head: str | None, file: Path | None) -> None:
    """Walk the chains of events, and name the event where one is broken; exit code 1 then."""
    noted = None if head is None else parse_anchor(head)
    if file is not None:
        _verify_file(file, noted)
        return
    if noted is not None and domain is None and not installation:
        raise click.UsageError("--head needs --domain or --installation.")
    with snapshot(services().database) as session:
        everything = domain is None and not installation
        wanted = chains(session) if everything else _chosen(session, domain, installation)
        told: set[str] = set()
        whole = [_tell(session, chain, noted, told) for chain in wanted]
        missing = missing_chains(session, told) if everything else []
    for uid in missing:
        click.echo(f"domain {uid}: broken: its chain is missing")
    if missing or not all(whole):
        sys.exit(1)


@audit.command("head", with_appcontext=False)
@_domain
@_installation
@command_body
def head(domain: str | None, installation: bool) -> None:
    """Print where the chains end: noted elsewhere, it shows later that nothing before it was changed or cut off."""
    with snapshot(services().database) as session:
        wanted = _chosen(session, domain, installation) if domain is not None or installation else chains(session)
        for chain in wanted:
            click.echo(f"{chain.domain or 'installation'} {chain.head}")


@audit.command("export", with_appcontext=False)
@_domain
@_installation
@click.option("--since", type=_moment, help="Events from this moment on, in UTC.")
@click.option("--until", type=_moment, help="Events before this moment, in UTC.")
@click.option("--format", "format_", type=click.Choice(["jsonl"]), default="jsonl", show_default=True)
@click.option("-o", "--output", type=click.File("w", encoding="utf-8"), default="-", help="Default: standard output.")
@command_body
def export(
    domain: str | None,
    installation: bool,
    since: datetime | None,
    until: datetime | None,
    format_: str,
    output: TextIO,
) -> None:
    """Write the events of one chain with their hashes, from which anybody can verify them."""
    del format_  # there is one
    if domain is None and not installation:
        raise click.UsageError("Say --domain D or --installation.")
    with snapshot(services().database) as session:
        (chain,) = _chosen(session, domain, installation)
        for line in export_lines(session, chain, since=_in_utc(since), until=_in_utc(until)):
            output.write(line + "\n")


@audit.command("import", with_appcontext=False)
@command_body
def import_() -> None:
    """Move events that waited for the database into their chains; the running service does so by itself."""
    moved = services().audit.spool.move_into(services().database)
    click.echo(f"{moved} events were moved.")


@audit.command("prune", with_appcontext=False)
@command_body
def prune() -> None:
    """Take out events that are older than AUDIT_RETENTION_DAYS; the running service does so once a day."""
    pruned = prune_all(services().database, retention_days=services().settings.audit_retention_days, again=True)
    click.echo(f"{pruned.events} events were taken out.")
    if pruned.broken:
        click.echo(f"{pruned.broken} chains were not pruned, since events of theirs are missing.", err=True)


def _chosen(session: Session, domain: str | None, installation: bool) -> list[ChainInfo]:
    if domain is not None and installation:
        raise click.UsageError("--domain and --installation exclude each other.")
    if domain is None:
        found = chain_of(session, None)
        return [] if found is None else [found]
    try:
        found = chain_of(session, find_domain(session, domain).id)
    except DomainNotFound:
        found = next((chain for chain in chains(session) if chain.domain == domain.lower()), None)
    if found is None:
        raise DomainNotFound(f"There are no events of a domain {domain!r}.")
    return [found]


def _tell(session: Session, chain: ChainInfo, noted: Anchor | None, told: set[str]) -> bool:
    """Verify a chain and say what was found; whether it is whole."""
    if noted is not None and noted.seq < chain.begin.seq:
        raise click.ClickException(f"Event {noted.seq} was pruned; the chain begins behind event {chain.begin.seq}.")
    broken = examine(session, chain, noted, told)
    said = f"broken at {broken}" if broken else f"{chain.head.seq - chain.begin.seq} events, whole; head {chain.head}"
    click.echo(f"{_named(session, chain)}: {said}")
    return broken is None


def _named(session: Session, chain: ChainInfo) -> str:
    if chain.domain_id is None:
        return "installation"
    name = session.scalar(select(Domain.name).where(Domain.id == chain.domain_id))
    return f"domain {chain.domain}" + (f" {name!r}" if name is not None else " (deleted)")


def _verify_file(file: Path, noted: Anchor | None) -> None:
    with file.open(encoding="utf-8", errors="replace") as lines:
        domain, last, broken = find_break_in_file(lines, noted)
    click.echo(f"{domain or 'installation'}: " + (f"broken at {broken}" if broken else f"whole; last event {last}"))
    if broken:
        sys.exit(1)


def _in_utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
