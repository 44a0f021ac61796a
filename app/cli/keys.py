"""`flask keys`: create, list, revoke, rotate; the snapshot for outages."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click
from flask.cli import AppGroup

from app.api.keys import dump_key
from app.api.wiring import services
from app.cli.common import command_body
from app.errors import DatabaseDisabled, DatabaseError, DatabaseTimeout, DatabaseUnavailable
from app.keys.grants import Grant
from app.keys.principal import ADMIN, Scope
from app.keys.service import KeyInfo
from app.keys.snapshot import Moment, Snapshot, shown_age

keys = AppGroup("keys", help="API keys: create, list, revoke and rotate them.")

_PAGE: Final = 500
_AWAY: Final = (DatabaseDisabled, DatabaseTimeout, DatabaseUnavailable)
_SPAN: Final = re.compile(r"(\d{1,6})\s*(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_RATE: Final = re.compile(r"(\d{1,7})(/min)?")


@keys.command("create", with_appcontext=False)
@click.option("--name", required=True, help="What the key is for.")
@click.option("--domain", "domains", multiple=True, help="A domain that it is for; may be given several times.")
@click.option("--every-domain", is_flag=True, help="For every domain, also those to come, instead.")
@click.option(
    "--scope", "scopes", multiple=True, required=True, help=f"Of {', '.join(Scope)}: several, or with commas."
)
@click.option("--expires", help="When it ends: 2027-01-31T12:00+01:00, or from now on: 30d, 12h.")
@click.option("--rate", help="Requests a minute: 600/min. Default: RATE_LIMIT_PER_MINUTE.")
@command_body
def create(
    name: str,
    domains: tuple[str, ...],
    every_domain: bool,
    scopes: tuple[str, ...],
    expires: str | None,
    rate: str | None,
) -> None:
    """Make a key, and print it, this once."""
    grant = Grant(
        scopes=_scopes(scopes),
        domains=frozenset(domains),
        every_domain=every_domain,
        expires_at=None if expires is None else _end(expires),
        rate_per_minute=None if rate is None else _rate(rate),
    )
    info, text = services().keys.create(name, grant, ADMIN)
    _show_once(info, text)


@keys.command("list", with_appcontext=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@command_body
def list_(as_json: bool) -> None:
    """List all keys, the oldest first."""
    found: list[KeyInfo] = []
    cursor: str | None = None
    while True:
        page = services().keys.list(limit=_PAGE, cursor=cursor)
        found += page.items
        if (cursor := page.next_cursor) is None:
            break
    if as_json:
        click.echo(json.dumps([dump_key(info) for info in found], ensure_ascii=False, indent=2))
        return
    for info in found:
        click.echo(_line(info))
    if not found:
        click.echo("There are no keys yet, but the administrator's in storage/admin.key.")


@keys.command("revoke", with_appcontext=False)
@click.argument("which", metavar="ID|PREFIX")
@command_body
def revoke(which: str) -> None:
    """Revoke a key, at once and for good; with the database away, in the snapshot that is gone by until it is back."""
    try:
        info = services().keys.revoke(which)
    except _AWAY as error:
        _revoke_without_database(which, error)
        return
    click.echo(f"Revoked key {info.prefix} ({info.name}).")


@keys.command("rotate", with_appcontext=False)
@click.argument("which", metavar="ID|PREFIX")
@click.option("--grace", default="0s", help="For how long the old text is good as well: 1h, 2d. Default: it ends now.")
@command_body
def rotate(which: str, grace: str) -> None:
    """Give a key another text, and print it, this once."""
    info, text = services().keys.rotate(which, ADMIN, _span(grace, "--grace"))
    _show_once(info, text)
    if info.previous_until is not None:
        click.echo(f"The old text is good until {info.previous_until.isoformat(timespec='seconds')}.", err=True)


@keys.command("snapshot", with_appcontext=False)
@click.option("--renew", is_flag=True, help="Write it anew; with the database away, sign it anew as it is.")
@command_body
def snapshot(renew: bool) -> None:
    """Tell what the snapshot of the keys holds, which is gone by while the database is away, and how old it is."""
    keeper = services().keeper
    found = _renewed() if renew else keeper.snapshot
    if found is None:
        raise click.ClickException("There is no snapshot that this installation has signed: make one with --renew.")
    age = shown_age(found.taken.age_s(Moment.now()))
    bound = shown_age(services().settings.key_snapshot_max_age_s)
    used = "can be gone by" if keeper.is_fresh(found) else "is NOT gone by any more (--renew)"
    click.echo(f"The snapshot is {age} old, and {used}; the bound is {bound}.")
    for key in found.keys:
        prefixes = " ".join(secret.prefix for secret in key.secrets)
        click.echo(f"  {key.id}  {prefixes}  {','.join(sorted(key.scopes))}  {key.name}")
    for entry in found.revoked:
        click.echo(
            f"  {entry.key_id}  revoked {entry.at.isoformat(timespec='seconds')}; the database has not been told yet"
        )


def _renewed() -> Snapshot:
    try:
        return services().keeper.refresh()
    except _AWAY as error:
        click.echo(f"{error} The snapshot is signed anew as it is.", err=True)
        return services().keeper.renew_without_database()


def _revoke_without_database(which: str, error: DatabaseError) -> None:
    key = services().keeper.revoke_without_database(which)
    click.echo(f"Revoked key {which} ({key.name}) on this machine, at once.")
    click.echo(
        f"{error} It has not been told: it will be when it is there again and the service here runs. Until then, services on"
        " other machines do not know of this.",
        err=True,
    )


def _show_once(info: KeyInfo, text: str) -> None:
    """The text alone on standard output, for scripts."""
    click.echo(_line(info), err=True)
    click.echo("This is the key. It is not kept, and cannot be shown again:", err=True)
    click.echo(text)


def _line(info: KeyInfo) -> str:
    where = "every domain" if info.grant.every_domain else ", ".join(sorted(info.grant.domains)) or "no domain"
    ends = f", until {info.grant.expires_at.isoformat(timespec='seconds')}" if info.grant.expires_at else ""
    rate = f", {info.grant.rate_per_minute}/min" if info.grant.rate_per_minute else ""
    scopes = ",".join(sorted(info.grant.scopes))
    return f"{info.id}  {info.prefix}  {info.state}  {scopes}  {where}{rate}{ends}  {info.name}"


def _scopes(given: tuple[str, ...]) -> frozenset[Scope]:
    names = [name.strip() for entry in given for name in entry.split(",") if name.strip()]
    unknown = sorted(set(names) - set(Scope))
    if unknown or not names:
        raise click.UsageError(f"--scope: {', '.join(unknown) or 'nothing'} is none of {', '.join(Scope)}.")
    return frozenset(map(Scope, names))


def _end(given: str) -> datetime:
    if _SPAN.fullmatch(given):
        return datetime.now(UTC) + _span(given, "--expires")
    try:
        end = datetime.fromisoformat(given)
    except ValueError:
        raise click.UsageError(
            f"--expires: {given!r} is no date like 2027-01-31T12:00+01:00 and no time like 30d."
        ) from None
    if end.utcoffset() is None:
        raise click.UsageError(
            "--expires: the date has no time zone; add one, e.g. 2027-01-31T12:00+01:00 or …T11:00Z."
        )
    return end


def _span(given: str, option: str) -> timedelta:
    found = _SPAN.fullmatch(given)
    if found is None:
        raise click.UsageError(f"{option}: {given!r} is no time like 90s, 15m, 12h or 30d.")
    return timedelta(**{_UNITS[found.group(2)]: int(found.group(1))})


def _rate(given: str) -> int:
    found = _RATE.fullmatch(given)
    if found is None:
        raise click.UsageError(f"--rate: {given!r} is no rate like 600/min.")
    return int(found.group(1))
