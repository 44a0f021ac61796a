"""`flask domains error-rates`: what a domain's own gallery says about thresholds."""

import json
from typing import Any

import click
from tqdm import tqdm

from app.api.error_rates import dump_error_rates
from app.api.wiring import services
from app.cli.common import command_body
from app.deadline import NO_DEADLINE
from app.error_rates.service import Effort, ErrorRates

_BAR_WIDTH = 30
_LINES = 20


@click.command("error-rates")
@click.argument("name")
@click.option("--threshold", type=click.FloatRange(0, 2, min_open=True), help="Cosine distance; else the model pack's.")
@click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.001,
    show_default=True,
    help="The false positive rate to find a threshold for.",
)
@click.option(
    "--templates",
    type=click.IntRange(1),
    help="Read so many templates at most, each at 4 bytes a dimension. [default: as many as fit into 64 MiB]",
)
@click.option(
    "--probes",
    type=click.IntRange(1),
    help="Compare so many of them with all others. [default: as many as make 64 million comparisons]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@command_body
def error_rates(
    name: str, threshold: float | None, rate: float, templates: int | None, probes: int | None, as_json: bool
) -> None:
    """Compare the gallery of domain NAME with itself: distances, error rates, and the threshold for a false positive rate."""
    with tqdm(unit="probe", disable=None) as bar:

        def tell(done: int, of: int) -> None:
            bar.total = of
            bar.update(done)

        found = services().error_rates.measure(
            name, threshold=threshold, effort=Effort(templates, probes), deadline=NO_DEADLINE, tell=tell
        )
    told = dump_error_rates(found, rate)
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        _print(found, told)


def _print(found: ErrorRates, told: dict[str, Any]) -> None:
    sample = "all of them" if found.complete else f"{found.sample.templates} of {found.sample.persons} persons"
    click.echo(
        f"{found.domain}: {found.gallery.templates} templates of {found.gallery.persons} persons, model {found.model}"
    )
    click.echo(f"Looked at {sample}; {found.probes} of them searched the others.")
    click.echo()
    _print_distances(told["distances"])
    for title, part, names in (
        ("Verification (1:1)", told["verification"], ("fmr", "fnmr")),
        (
            f"Identification (1:N) in a gallery of {found.sample.persons} persons",
            told["identification"],
            ("fpir", "fnir"),
        ),
    ):
        click.echo()
        click.echo(title)
        _print_point("current threshold", part["current"], names)
        if part["chosen"] is None:
            click.echo("  There are not two persons with templates.")
        else:
            _print_point(f"for {names[0].upper()} {told['rate']:g}", part["chosen"], names)
    unclear = found.identification.ambiguous
    click.echo(
        f"  of FNIR {found.identification.misnamed} named as somebody else, {unclear[0]} ambiguous;"
        f" of probes of nobody enrolled {unclear[1]} ambiguous"
    )
    click.echo()
    click.echo("Bounds are of 95 %, as if no two trials shared people or pictures: rather less is known.")


def _print_distances(distances: dict[str, Any]) -> None:
    """A line for several bins, each side in proportion to its own largest line."""
    per_line = max(1, len(distances["genuine"]) // _LINES)
    width = distances["upto"] / len(distances["genuine"])
    sums = {
        side: [sum(distances[side][at : at + per_line]) for at in range(0, len(distances[side]), per_line)]
        for side in ("genuine", "impostor")
    }
    click.echo(f"{'distance':>8}  {'genuine':<{_BAR_WIDTH + 10}}impostor")
    for line, (genuine, impostor) in enumerate(zip(sums["genuine"], sums["impostor"], strict=True)):
        one = _bar(genuine, max(sums["genuine"]))
        other = _bar(impostor, max(sums["impostor"]))
        click.echo(
            f"{(line + 1) * per_line * width:8.3f}  {one:<{_BAR_WIDTH}}{genuine or '':<10}{other} {impostor or ''}".rstrip()
        )


def _bar(count: int, most: int) -> str:
    return "#" * -(-count * (_BAR_WIDTH - 2) // most) if most else ""


def _print_point(label: str, point: dict[str, Any], names: tuple[str, str]) -> None:
    rates = "   ".join(_rate(name, point[name]) for name in names)
    click.echo(f"  {label + ':':<20} {point['threshold']:.4f}   {rates}")


def _rate(name: str, rate: dict[str, Any]) -> str:
    if not rate["trials"]:
        return f"{name.upper()} unknown: nothing to compare"
    counts = f"{rate['errors']} of {rate['trials']}"
    if not rate["errors"]:
        return f"{name.upper()} {counts}: below {rate['high']:.2g}"
    return f"{name.upper()} {rate['rate']:.2g} ({counts}; {rate['low']:.2g} to {rate['high']:.2g})"
