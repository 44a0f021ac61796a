"""`flask import DOMAIN SOURCE`: a zip or a folder as a job, as the API's imports."""

import os
from pathlib import Path

import click

from app.api.wiring import services
from app.cli.common import command_body
from app.enrolment.archives import Archive, Member
from app.enrolment.imports import Source, start_import
from app.errors import UnreadableFile


@click.command("import")
@click.argument("domain")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--skip", type=click.IntRange(0, 10), help="Folders around the persons' own [default: found out].")
@command_body
def import_(domain: str, source: Path, skip: int | None) -> None:
    """Have the photos of SOURCE, a zip or a folder with one folder per person, enrolled into DOMAIN in the background.

    They are stored in the database first. Prints the id of the job: `flask jobs show` tells how far it is.
    """
    settings = services().settings
    with services().database.bulk_transaction() as session:
        if source.is_dir():
            job_id = start_import(
                session, settings, domain, _folder(source, settings.max_upload_bytes + 1), skip=skip or 0
            )
        else:
            with source.open("rb") as file:
                archive = Archive(
                    file,
                    max_files=settings.max_import_files,
                    max_bytes=settings.max_import_bytes,
                    max_file_bytes=settings.max_upload_bytes,
                )
                job_id = start_import(session, settings, domain, Source.of_zip(archive), skip=skip)
    click.echo(str(job_id))


def _folder(folder: Path, most_bytes: int) -> Source:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [os.fsencode(path.relative_to(folder).as_posix()).decode(errors="replace") for path in paths]

    def read(number: int) -> Member:
        try:
            with paths[number].open("rb") as file:
                return Member(names[number], file.read(most_bytes))
        except OSError as error:
            return Member(names[number], error=UnreadableFile(f"The file cannot be read: {error.strerror}."))

    return Source(names, read)
