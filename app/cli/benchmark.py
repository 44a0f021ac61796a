"""`flask benchmark`: what the old system claimed to be faster at, measured here against the naive way."""

import json
from pathlib import Path

import click

from app.api.wiring import services
from app.benchmark.comparison import Comparison
from app.benchmark.pictures import portrait
from app.benchmark.suite import Suite
from app.benchmark.timing import machine
from app.cli.common import command_body
from app.names import clean_name

_UNMET_CODE = 3


@click.command("benchmark")
@click.option("--client", required=True, metavar="ID", help="A domain with a person in it, by name or id.")
@click.option("--iterations", type=click.IntRange(2, 100_000), default=20, show_default=True, help="Of each way.")
@click.option(
    "--photo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of one person [default: one that comes with scikit-image].",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@command_body
def benchmark(client: str, iterations: int, photo: Path | None, as_json: bool) -> None:
    """Measure five things beside the way in which they were done before, taking turns, on the running service.

    Nothing is left behind: vectors are made up in temporary tables. The exit code is 0 only where each is faster by more than
    was claimed, and 3 else.
    """
    found = services()
    suite = Suite(
        settings=found.settings,
        database=found.database,
        embedder=found.embedder,
        domain=clean_name(client, "domain name"),
        picture=(photo or portrait()).read_bytes(),
        runs=iterations,
        progress=lambda what: click.echo(f"{what} …", err=True),
    )
    comparisons = list(suite.run())
    click.echo(_json(comparisons) if as_json else _table(comparisons))
    if not all(comparison.holds for comparison in comparisons):
        raise SystemExit(_UNMET_CODE)


def _json(comparisons: list[Comparison]) -> str:
    all_hold = all(comparison.holds for comparison in comparisons)
    rows = [comparison.as_json() for comparison in comparisons]
    return json.dumps({"machine": machine(), "all_hold": all_hold, "comparisons": rows}, indent=2)


def _table(comparisons: list[Comparison]) -> str:
    lines = [
        ", ".join(f"{key}: {value}" for key, value in machine().items()),
        "",
        f"{'':<30} {'naive':>12} {'Facedex':>12} {'faster':>9} {'claimed':>12}",
    ]
    for comparison in comparisons:
        claim = comparison.claim
        lines.append(
            f"{comparison.name:<30} {comparison.naive.median_ms:>9.2f} ms {comparison.own.median_ms:>9.2f} ms"
            f" {comparison.faster_percent:>7.1f} % {claim.low:>4.0f} to {claim.high:>2.0f} %"
            f"   {'beaten' if comparison.holds else 'NOT BEATEN'}"
        )
    notes = [f"{comparison.name}: {comparison.ways}" for comparison in comparisons]
    return "\n".join(
        [*lines, "", *notes, "", "Medians. Faster: less time; of throughput: more photos in the same time."]
    )
