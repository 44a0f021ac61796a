"""How search, insertion and the index grow with the gallery."""

import time
from collections.abc import Callable
from typing import Final

import click
import numpy as np
from sqlalchemy import text

from app.db.breaker import CircuitBreaker
from app.db.domains import Gallery
from app.db.partitions import index_state
from app.db.session import Database
from app.db.templates import NewTemplate, insert_templates
from app.deadline import Deadline
from app.recognition.pgvector import PgvectorRecognition
from app.recognition.service import SearchQuery
from app.vision.faces import Box, Float32Array
from scripts.benchmarks.databases import temporary_server
from scripts.benchmarks.made_up import NOISE, MadeUp, around, clustered, make_domain, one_each, store, units
from scripts.benchmarks.report import Table, Timing, show, time_interleaved

_KINDS: Final[dict[str, Callable[..., MadeUp]]] = {"clustered": clustered, "one": one_each}
_TOP_K, _THRESHOLD, _MARGIN = 5, 0.4, 0.03
_UNSURE_RUNS = 20
_COLUMNS: Final = ("templates", "clear match", "unknown", "insert", "load s", "index MB", "table MB")


@click.command()
@click.option(
    "--rows",
    type=click.IntRange(min=100),
    multiple=True,
    default=(1_000, 3_162, 10_000, 31_623, 100_000),
    show_default=True,
    help="Templates; with 1000000 it takes a quarter of an hour.",
)
@click.option("--kind", type=click.Choice(tuple(_KINDS)), default="clustered", show_default=True)
@click.option("--dimension", type=click.IntRange(8, 1_536), default=512, show_default=True)
@click.option(
    "--runs", type=click.IntRange(min=10), default=200, show_default=True, help="Searches, and inserts, each size."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def growth(rows: tuple[int, ...], kind: str, dimension: int, runs: int, as_json: bool) -> None:
    """Search, insertion and index by the number of templates, with the exponent of a power law fitted to each.

    An exponent of 0 is a cost that does not grow, one of 1 grows as the gallery does. The alternative is exact search.
    """
    timings: list[Timing] = []
    measured: list[tuple[float, ...]] = []
    with temporary_server() as server:
        for count in sorted(rows):
            name = f"{kind} {count}"
            started_s = time.perf_counter()
            make_domain(server.database, name, dimension)
            made = _KINDS[kind](count, dimension=dimension)
            stored = store(server.database, name, made)
            load_s = time.perf_counter() - started_s
            found = _measure(server.database, stored, made, runs)
            timings += found
            with server.database.transaction() as session:
                state = index_state(session, stored.domain_id)
            spans = [timing.median_ms for timing in found]
            measured.append((count, *spans, load_s, state.size_bytes / 1e6, state.table_bytes / 1e6))
    table = Table(f"By size, {kind}, {dimension} dimensions; ms at p50", _COLUMNS, [*measured, *_fitted(measured)])
    facts: dict[str, object] = {
        f"at {int(count)}: clear match over exact search": round(clear / unknown, 4)
        for count, clear, unknown, *_ in measured
    }
    show("Growth", timings, facts, as_json=as_json, tables=[table])


def _measure(database: Database, gallery: Gallery, made: MadeUp, runs: int) -> list[Timing]:
    random = np.random.default_rng(5)
    known = around(made.identities[random.integers(0, len(made.identities), 200)], NOISE, 31)
    strangers = units(50, made.dimension, 32)
    service = PgvectorRecognition(database._settings, database, CircuitBreaker())
    query = SearchQuery(gallery.contract, _TOP_K, _THRESHOLD, _MARGIN)

    def ask(probes: Float32Array) -> Callable[[int], object]:
        def run(number: int) -> object:
            opened = service.open(gallery.name, Deadline.after(60))
            with opened.searched([probes[number % len(probes)]], query, Deadline.after(60)) as hits:
                return hits

        return run

    ways = {f"clear match, {len(made)}": (ask(known), runs), f"unknown, {len(made)}": (ask(strangers), _UNSURE_RUNS)}
    timings = [time_interleaved({name: way}, count)[0] for name, (way, count) in ways.items()]
    return [
        *timings,
        *time_interleaved({f"insert, {len(made)}": _inserting(database, gallery, strangers)}, max(20, runs // 4)),
    ]


def _inserting(database: Database, gallery: Gallery, vectors: Float32Array) -> Callable[[int], object]:
    """One template each, in a transaction of its own, as an enrolment stores it."""
    with database.transaction() as session:
        query = text("SELECT id FROM persons WHERE domain_id = :domain LIMIT 1")
        person = session.scalar(query, {"domain": gallery.domain_id})

    def run(number: int) -> object:
        new = NewTemplate(person, vectors[number % len(vectors)], None, Box(10, 20, 90, 110), 0.9, 100.0)
        with database.transaction() as session:
            return insert_templates(session, gallery.domain_id, [new])

    return run


def _fitted(measured: list[tuple[float, ...]]) -> list[tuple[object, ...]]:
    """The slope of a line through the logarithms of sizes and values."""
    if len(measured) < 2:
        return []
    sizes, *columns = np.log(np.array(measured)).T
    return [("exponent", *(f"{np.polyfit(sizes, column, 1)[0]:.2f}" for column in columns))]
