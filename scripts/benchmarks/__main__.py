"""`scripts/bench`: one subcommand a measurement."""

import click

from scripts.benchmarks.audit import audit
from scripts.benchmarks.dynamodb import dynamodb
from scripts.benchmarks.embedder import embedder
from scripts.benchmarks.enrol import enrol
from scripts.benchmarks.gallery import gallery
from scripts.benchmarks.growth import growth
from scripts.benchmarks.memory import memory
from scripts.benchmarks.migrate import migrate_pkl
from scripts.benchmarks.overload import overload
from scripts.benchmarks.peers import peers
from scripts.benchmarks.pool import pool
from scripts.benchmarks.recognize import recognize
from scripts.benchmarks.rollback import rollback
from scripts.benchmarks.search import search
from scripts.benchmarks.sessions import sessions
from scripts.benchmarks.soak import soak
from scripts.benchmarks.startup import startup
from scripts.benchmarks.verify import verify


@click.group()
def bench() -> None:
    """Measure parts of Facedex, ways side by side in one run where there are several, and print the ratio.

    By default none takes longer than five minutes. docs/benchmarks.md has what they printed, where, and what limits it.
    """


bench.add_command(audit)
bench.add_command(dynamodb)
bench.add_command(embedder)
bench.add_command(enrol)
bench.add_command(gallery)
bench.add_command(growth)
bench.add_command(memory)
bench.add_command(migrate_pkl)
bench.add_command(overload)
bench.add_command(peers)
bench.add_command(pool)
bench.add_command(recognize)
bench.add_command(rollback)
bench.add_command(search)
bench.add_command(sessions)
bench.add_command(soak)
bench.add_command(startup)
bench.add_command(verify)
bench(prog_name="scripts/bench")
