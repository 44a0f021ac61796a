"""Times of one run as a table or JSON, with the command, the day and the machine."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click

from app.benchmark.timing import Timing, cores, machine, summary, time_interleaved

__all__ = ["Table", "Timing", "circumstances", "cores", "machine", "show", "summary", "time_interleaved", "verdict"]


@dataclass(frozen=True, slots=True)
class Table:
    """What is no list of times: rows of values under named columns; floats are shown with two digits."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


def show(
    title: str,
    timings: list[Timing],
    facts: dict[str, object],
    *,
    as_json: bool,
    tables: Sequence[Table] = (),
) -> None:
    """Print tables, or one JSON object. The ratio is that of the first way's median to each."""
    slowest = timings[0].median_ms if timings else 0.0
    if as_json:
        rows = [asdict(timing) | {"ratio": slowest / timing.median_ms} for timing in timings]
        told = {"timings": rows, "tables": {table.title: _as_dicts(table) for table in tables}}
        click.echo(json.dumps({"title": title} | circumstances() | told | facts, indent=2))
        return
    click.echo(f"{title}\n{', '.join(f'{key}: {value}' for key, value in machine().items())}")
    click.echo(f"{_command()}, {_today()}\n")
    if timings:
        width = max(28, *(len(timing.name) for timing in timings))
        heads = " ".join(f"{head:>10}" for head in ("median", "p95", "p99", "min"))
        click.echo(f"{'':<{width}} {'runs':>6} {heads} {'ratio':>7}")
        for timing in timings:
            values = (timing.median_ms, timing.p95_ms, timing.p99_ms, timing.min_ms)
            spans = " ".join(f"{value:>7.2f} ms" for value in values)
            click.echo(f"{timing.name:<{width}} {timing.runs:>6} {spans} {slowest / timing.median_ms:>6.2f}x")
        click.echo()
    for table in tables:
        _show_table(table)
    click.echo("\n".join(f"{key}: {value}" for key, value in facts.items()))


def circumstances() -> dict[str, object]:
    """What every result is told with: the machine, the command and the day."""
    return {"machine": machine(), "command": _command(), "date": _today()}


def verdict(value: float, aim: float, *, at_most: bool = True) -> str:
    """Whether a figure reaches its aim, in words that can be searched for."""
    reached = value <= aim if at_most else value >= aim
    return f"{value:.3g}, aim {'at most' if at_most else 'at least'} {aim:g}: {'yes' if reached else 'NO'}"


def _as_dicts(table: Table) -> list[dict[str, object]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _show_table(table: Table) -> None:
    rows = [table.columns, *([_cell(value) for value in row] for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    click.echo(table.title)
    for row in rows:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(["", first, *others]))
    click.echo()


def _cell(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _command() -> str:
    return f"scripts/bench {shlex.join(sys.argv[1:])}"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
