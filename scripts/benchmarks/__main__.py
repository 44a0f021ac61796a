"""`scripts/bench`: one subcommand a measurement."""

import click

from scripts.benchmarks.embedder import embedder
from scripts.benchmarks.memory import memory
from scripts.benchmarks.migrate import migrate_pkl
from scripts.benchmarks.rollback import rollback


@click.group()
def bench() -> None:
    """Measure parts of Facedex, two ways side by side in one run, and print the ratio."""


bench.add_command(embedder)
bench.add_command(memory)
bench.add_command(migrate_pkl)
bench.add_command(rollback)
bench(prog_name="scripts/bench")
