"""A running service's domain with people on photos in it, and made-up ones behind them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import httpx

from scripts.benchmarks.made_up import one_each, store
from scripts.benchmarks.pictures import photos
from scripts.benchmarks.running import Service

DOMAIN: Final = "people"
DIMENSION: Final = 128
"""Of the default pack."""

# Of each person's pictures, so many are enrolled; the others are the probes.
_ENROLLED: Final = 7


def split_photos() -> tuple[list[Path], list[Path]]:
    """Those to enrol, and those to recognise; a person is the folder."""
    by_person: dict[str, list[Path]] = defaultdict(list)
    for path in photos():
        by_person[path.parent.name].append(path)
    enrolled = [path for paths in by_person.values() for path in paths[:_ENROLLED]]
    return enrolled, [path for paths in by_person.values() for path in paths[_ENROLLED:] or paths]


def fill(service: Service, domain: str, enrolled: Sequence[Path], templates: int) -> None:
    """Make the domain, enrol the photos, and load so many made-up templates, one a person."""
    service.create_domain(domain)
    with httpx.Client(base_url=service.url, headers=service.key, timeout=60) as http:
        for path in enrolled:
            answer = http.post(
                f"/v1/domains/{domain}/persons/{path.parent.name}/faces",
                files={"file": (path.name, path.read_bytes(), "image/jpeg")},
            )
            if answer.status_code not in (200, 201, 422):  # a picture that is not good enough is left out
                raise click.ClickException(f"{path.name} was not enrolled: {answer.text}")
    if templates:
        with service.database() as database:
            store(database, domain, one_each(templates, dimension=DIMENSION))
