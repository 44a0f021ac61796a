"""`flask jobs`: list, show, cancel, and try again."""

import json
from typing import Any

import click
from flask.cli import AppGroup

from app.api.jobs import dump_job
from app.api.wiring import services
from app.cli.common import command_body
from app.enrolment.jobs import JobInfo

jobs = AppGroup("jobs", help="List, show and cancel jobs, and have those that failed go on.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_PAGE = 500


@jobs.command("list", with_appcontext=False)
@click.option("--domain", help="Only those of this domain, by name or id.")
@click.option("--state", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]))
@click.option("--kind", help="Only those of this kind, e.g. import.")
@click.option("--limit", type=click.IntRange(1, _PAGE), default=50, show_default=True, help="The latest so many.")
@_as_json
@command_body
def list_(domain: str | None, state: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List jobs, the latest first."""
    found = services().jobs.list(domain=domain, state=state, kind=kind, limit=limit).items
    if as_json:
        click.echo(_json([dump_job(info) for info in found]))
        return
    for info in found:
        click.echo(_line(info))
    if not found:
        click.echo("There are none.")


@jobs.command("show", with_appcontext=False)
@click.argument("job_id")
@_as_json
@command_body
def show(job_id: str, as_json: bool) -> None:
    """Show the job JOB_ID, and the files of a bulk enrolment that were rejected or failed."""
    info = services().jobs.read(job_id)
    if as_json:
        click.echo(_json(dump_job(info)))
        return
    click.echo(_line(info))
    if info.error_code is not None:
        click.echo(f"  {info.error_code}: {info.error_message}")
    if info.files is None:
        return
    click.echo("  files: " + ", ".join(f"{count} {state}" for state, count in info.files.items()))
    for state in ("rejected", "failed"):
        for file in services().jobs.files(job_id, state=state, limit=_PAGE, cursor=None).items:
            click.echo(f"  {state}  {file.file}: {file.error_message} [{file.error_code}]")


@jobs.command("cancel", with_appcontext=False)
@click.argument("job_id")
@command_body
def cancel(job_id: str) -> None:
    """End the job JOB_ID; what it has done stays."""
    click.echo(_line(services().jobs.cancel(job_id)))


@jobs.command("retry", with_appcontext=False)
@click.argument("job_id")
@command_body
def retry(job_id: str) -> None:
    """Have the job JOB_ID, which failed or was cancelled, go on where it stopped."""
    click.echo(_line(services().jobs.retry(job_id)))


def _line(info: JobInfo) -> str:
    total = "?" if info.total is None else info.total
    parts = [str(info.id), info.kind, info.state, f"{info.done}/{total}", f"{info.attempts} attempts"]
    return "  ".join([*parts, info.created_at.isoformat(timespec="seconds"), info.domain or "-"])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
