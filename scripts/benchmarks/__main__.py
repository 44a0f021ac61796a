"""`scripts/bench`: one subcommand a measurement."""

import click

from scripts.benchmarks.embedder import embedder


@click.group()
def bench() -> None:
    """Measure parts of Facedex, two ways side by side in one run, and print the ratio."""


bench.add_command(embedder)
bench(prog_name="scripts/bench")
