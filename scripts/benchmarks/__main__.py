"""`scripts/bench`: one subcommand a measurement."""

import click

from scripts.benchmarks.audit import audit
from scripts.benchmarks.dynamodb import dynamodb
from scripts.benchmarks.embedder import embedder
from scripts.benchmarks.gallery import gallery
from scripts.benchmarks.memory import memory
from scripts.benchmarks.migrate import migrate_pkl
from scripts.benchmarks.overload import overload
from scripts.benchmarks.pool import pool
from scripts.benchmarks.rollback import rollback
from scripts.benchmarks.sessions import sessions
from scripts.benchmarks.soak import soak


@click.group()
def bench() -> None:
    """Measure parts of Facedex, ways side by side in one run where there are several, and print the ratio."""


bench.add_command(audit)
bench.add_command(dynamodb)
bench.add_command(embedder)
bench.add_command(gallery)
bench.add_command(memory)
bench.add_command(migrate_pkl)
bench.add_command(overload)
bench.add_command(pool)
bench.add_command(rollback)
bench.add_command(sessions)
bench.add_command(soak)
bench(prog_name="scripts/bench")
