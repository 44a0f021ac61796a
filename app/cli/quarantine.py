"""`flask quarantine`: the pictures that workers have died of."""

import json
import re
from datetime import UTC, datetime

import click
from flask.cli import AppGroup

from app.api.wiring import services
from app.cli.common import command_body
from app.embedder.quarantine import QuarantinedPicture

quarantine = AppGroup("quarantine", help="Pictures that workers have died of, and that no worker gets any more.")

_DIGEST_CHARS = 64


@quarantine.command("list", with_appcontext=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
@command_body
def list_(as_json: bool) -> None:
    """Show each picture's SHA-256, what the last worker died of, and until when it is refused."""
    held = services().embedder.quarantined()
    if as_json:
        rows = [
            {"sha256": picture.sha256, "cause": picture.cause, "expires_at": _expires_at(picture).isoformat()}
            for picture in held
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for picture in held:
        click.echo(f"{picture.sha256}  {picture.cause:<10}  until {_expires_at(picture):%Y-%m-%d %H:%M:%S} UTC")
    if not held:
        click.echo("No picture is in quarantine.")


@quarantine.command("clear", with_appcontext=False)
@click.argument("sha256", required=False)
@click.option("--all", "everything", is_flag=True, help="Every picture.")
@command_body
def clear(sha256: str | None, everything: bool) -> None:
    """Let workers have the picture SHA256 again; its first digits are enough where no other picture's digest begins so."""
    if (sha256 is None) != everything:
        raise click.UsageError("Name one picture by its SHA256, or all of them by --all.")
    cleared = services().embedder.clear_quarantine(None if sha256 is None else _digest(sha256))
    services().audit.note("quarantine.cleared", {"pictures": cleared})
    if sha256 is not None and not cleared:
        raise click.ClickException(f"No picture with the digest {sha256} is in quarantine.")
    click.echo(f"{cleared} picture{'' if cleared == 1 else 's'} may be tried again.")


def _digest(start: str) -> str:
    """The whole digest that begins so."""
    start = start.lower()
    if not re.fullmatch(rf"[0-9a-f]{{1,{_DIGEST_CHARS}}}", start):
        raise click.ClickException("A SHA-256 has hexadecimal digits only, 64 of them or fewer.")
    if len(start) == _DIGEST_CHARS:
        return start
    found = [held.sha256 for held in services().embedder.quarantined() if held.sha256.startswith(start)]
    if not found:
        raise click.ClickException(f"No picture with a digest that begins with {start} is in quarantine.")
    if len(found) > 1:
        raise click.ClickException(f"{len(found)} pictures have digests that begin with {start}; give more digits.")
    return found[0]


def _expires_at(picture: QuarantinedPicture) -> datetime:
    return datetime.fromtimestamp(picture.expires_at, UTC).replace(microsecond=0)
