"""1:N search in the database: the way of production beside exact search, bare indexes, and a table as one would make it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import click
import numpy as np
import psycopg
from pgvector import Vector
from sqlalchemy import text

from app.db.breaker import CircuitBreaker
from app.db.domains import Gallery, load_gallery
from app.db.partitions import partition_name
from app.db.prewarm import prewarm
from app.db.session import Database, fetch_raw
from app.db.templates import recount_templates
from app.db.vectors import ProbeHits, SearchOptions, search_settings
from app.db.vectors import search as search_gallery
from app.deadline import Deadline
from app.recognition.pgvector import PgvectorRecognition
from app.recognition.service import SearchQuery
from app.vision.faces import Float32Array
from scripts.benchmarks.databases import Server, forget_files, temporary_server
from scripts.benchmarks.made_up import NOISE, MadeUp, around, clustered, label, make_domain, one_each, store, units
from scripts.benchmarks.report import Table, Timing, show, summary, time_interleaved, verdict

_KINDS: Final[dict[str, Callable[..., MadeUp]]] = {"clustered": clustered, "one": one_each}
_TOP_K, _THRESHOLD, _MARGIN = 5, 0.4, 0.03
# A poor picture: at a cosine distance of 0.39 from its person's templates, just within the threshold.
_POOR: Final = 1.0
_EF: Final = (10, 20, 40, 100, 200)
_SMALL: Final = 100  # templates of each of the other domains
_ROWS_AT_ONCE: Final = 25_000
_RECALL_AIM, _CLEAR_AIM_MS, _UNKNOWN_AIM, _RESTART_AIM = 0.999, 1.0, 0.2, 2.0
_AIMED_ROWS: Final = 23_640
# Building `vector`'s own index takes longer than everything else, from here on.
_BARE_INDEX_MAX_ROWS: Final = 25_000


@click.command()
@click.option(
    "--rows",
    type=click.IntRange(min=100),
    multiple=True,
    default=(1_000, 5_000, 23_640, 100_000),
    show_default=True,
    help="Templates; 1000000 takes a quarter of an hour.",
)
@click.option(
    "--kind",
    type=click.Choice(tuple(_KINDS)),
    multiple=True,
    default=tuple(_KINDS),
    show_default=True,
    help="Nine templates a person, or one.",
)
@click.option("--dimension", type=click.IntRange(8, 1_536), default=512, show_default=True)
@click.option(
    "--probes",
    type=click.IntRange(min=10),
    default=500,
    show_default=True,
    help="Of people in the gallery; a tenth of them of strangers.",
)
@click.option(
    "--domains",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Others in the same database, at the end: 1000 take three minutes.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def search(
    rows: tuple[int, ...], kind: tuple[str, ...], dimension: int, probes: int, domains: int, as_json: bool
) -> None:
    """Is the right person found, in what time: HNSW and exact, by size, ef_search and form; after restarts."""
    told = _Told()
    timings: list[Timing] = []
    with temporary_server() as server:
        for name in kind:
            for count in rows:
                gallery = _KINDS[name](count, dimension=dimension)
                timings = _measure(server, f"{name} {count}", gallery, probes, told) or timings
        if domains:
            _many_domains(server, f"{kind[0]} {rows[0]}", domains, dimension, told)
    show("Search of one face", timings, told.facts, as_json=as_json, tables=told.tables())


class _Told:
    """Rows of the tables, and what is to be made of them."""

    def __init__(self) -> None:
        self.quality: list[tuple[object, ...]] = []
        self.times: list[tuple[object, ...]] = []
        self.bare: list[tuple[object, ...]] = []
        self.restarts: list[tuple[object, ...]] = []
        self.facts: dict[str, object] = {}

    def tables(self) -> list[Table]:
        return [
            Table(
                "The right person first, of probes that exact search gets right; persons returned",
                (
                    "gallery",
                    "state",
                    "production / exact",
                    "of poor pictures",
                    f"persons of {_TOP_K}",
                    "answered by the index alone",
                ),
                self.quality,
            ),
            Table(
                "Times, ms at p50 (in brackets: over the default sequential scan)",
                (
                    "gallery",
                    "clear match",
                    "with its transaction",
                    "unknown",
                    "with its transaction",
                    "default scan",
                    "load s",
                ),
                self.times,
            ),
            Table("A bare index, by ef_search", ("gallery", "index", "ef", "right first / exact", "p50 ms"), self.bare),
            Table(
                "The first ten after a restart",
                ("gallery", "files", "median ms", "slowest ms", "steady ms", "prewarm s"),
                self.restarts,
            ),
        ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A stored gallery and the probes that it is asked with; `right` is who exact search puts first, -1 where it errs."""

    name: str
    made: MadeUp
    gallery: Gallery
    clear: Float32Array
    poor: Float32Array
    strangers: Float32Array
    right: dict[str, np.ndarray]


def _measure(server: Server, name: str, made: MadeUp, probes: int, told: _Told) -> list[Timing]:
    database = server.database
    started_s = time.perf_counter()
    make_domain(database, name, made.dimension)
    stored = store(database, name, made)
    load_s = time.perf_counter() - started_s
    asked = _ask_for(name, made, stored, probes)
    _quality(database, asked, "as loaded", told)
    timings = _times(server, asked, load_s, told)
    _bare_indexes(database, asked, told)
    if len(made) >= _AIMED_ROWS:
        _restart(server, asked, told, cold=True)
    _delete_a_tenth(database, asked, told)
    return timings if len(made) == _AIMED_ROWS else []


def _ask_for(name: str, made: MadeUp, stored: Gallery, probes: int) -> _Asked:
    random = np.random.default_rng(7)
    whose = random.integers(0, len(made.identities), probes)
    clear = around(made.identities[whose], NOISE, 11)
    poor = around(made.identities[whose[: max(1, probes // 5)]], _POOR, 12)
    strangers = units(max(10, probes // 10), made.dimension, 13)
    first = {"clear": _exact_first(made, clear), "poor": _exact_first(made, poor)}
    right = {kind: np.where(found == whose[: len(found)], found, -1) for kind, found in first.items()}
    return _Asked(name, made, stored, clear, poor, strangers, right)


def _exact_first(made: MadeUp, probes: Float32Array) -> np.ndarray:
    """Whose template is nearest to each probe, by a matrix product over all of them."""
    best, owner = np.full(len(probes), -2.0, np.float32), np.zeros(len(probes), np.int64)
    for start in range(0, len(made), _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, len(made))
        likeness = probes @ made.templates(start, end).T
        at = likeness.argmax(axis=1)
        most = likeness[np.arange(len(probes)), at]
        owner = np.where(most > best, made.owners[start + at], owner)
        best = np.maximum(most, best)
    return owner


def _options(database: Database, dimension: int) -> SearchOptions:
    settings = database._settings
    return SearchOptions(_TOP_K, _THRESHOLD, _MARGIN, settings.exact_max_rows(dimension), settings.search_ef)


def _quality(database: Database, asked: _Asked, state: str, told: _Told, gone: frozenset[int] = frozenset()) -> None:
    """How often production puts the person first whom exact search puts first, and how many persons it returns."""
    options, shares, alone, fewest = _options(database, asked.made.dimension), [], [], _TOP_K
    with database.bulk_transaction() as session:
        gallery = load_gallery(session, asked.name)
        for kind, probes in (("clear", asked.clear), ("poor", asked.poor)):
            wanted = [
                (probe, person)
                for probe, person in zip(probes, asked.right[kind].tolist(), strict=True)
                if person >= 0 and person not in gone
            ]
            found: list[ProbeHits] = [search_gallery(session, gallery, probe[None], options)[0] for probe, _ in wanted]
            hits = [hit.persons[0].label == label(person) for hit, (_, person) in zip(found, wanted, strict=True)]
            shares.append(float(np.mean(hits)))
            alone += [hit.path.value == "hnsw" for hit in found]
            fewest = min([fewest, *(len(hit.persons) for hit in found)])
    told.quality.append((asked.name, state, f"{shares[0]:.4f}", f"{shares[1]:.4f}", fewest, f"{np.mean(alone):.3f}"))
    told.facts[f"{asked.name}, {state}: the right person"] = verdict(min(shares), _RECALL_AIM, at_most=False)


def _times(server: Server, asked: _Asked, load_s: float, told: _Told) -> list[Timing]:
    database, table = server.database, _naive(server.database, asked)
    query = SearchQuery(asked.gallery.contract, _TOP_K, _THRESHOLD, _MARGIN)
    service = PgvectorRecognition(server.settings, database, CircuitBreaker())
    options = _options(database, asked.made.dimension)
    settings = search_settings(asked.gallery, options)

    def alone(probes: Float32Array) -> Callable[[int], float]:
        def run(number: int) -> float:
            with database.bare_transaction(settings=settings) as transaction:
                started_s = time.perf_counter()
                search_gallery(transaction, asked.gallery, probes[number % len(probes)][None], options)
                return (time.perf_counter() - started_s) * 1e3

        return run

    def whole(probes: Float32Array) -> Callable[[int], float]:
        def run(number: int) -> float:
            started_s = time.perf_counter()
            _search_whole(service, asked.gallery, probes[number % len(probes)], query)
            return (time.perf_counter() - started_s) * 1e3

        return run

    def scanned(number: int) -> float:
        with database.bare_transaction() as transaction:
            started_s = time.perf_counter()
            fetch_raw(transaction, scan, {"probe": Vector(asked.strangers[number % len(asked.strangers)])})
            return (time.perf_counter() - started_s) * 1e3

    scan = f"SELECT person, embedding <=> %(probe)b AS d FROM {table} ORDER BY embedding <=> %(probe)b LIMIT {_TOP_K}"
    unsure = {
        "default sequential scan": scanned,
        "unknown": alone(asked.strangers),
        "unknown, with its transaction": whole(asked.strangers),
    }
    slow = _in_turn(unsure, 30 if len(asked.made) < 50_000 else 10)
    clear = {"clear match": alone(asked.clear), "clear match, with its transaction": whole(asked.clear)}
    quick = _in_turn(clear, 300, turn=20)
    with database.maintenance() as connection:
        connection.execute(text(f"DROP TABLE {table}"))
    default, unknown, unknown_whole = slow
    match, match_whole = quick
    beside = [
        f"{timing.median_ms:.2f} ({timing.median_ms / default.median_ms:.3f})"
        for timing in (match, match_whole, unknown, unknown_whole)
    ]
    told.times.append((asked.name, *beside, default.median_ms, load_s))
    if len(asked.made) == _AIMED_ROWS:
        told.facts[f"{asked.name}: a clear match, ms at p50"] = verdict(match.median_ms, _CLEAR_AIM_MS)
        told.facts[f"{asked.name}: unknown over the default scan"] = verdict(
            unknown.median_ms / default.median_ms, _UNKNOWN_AIM
        )
    return [default, unknown, unknown_whole, match, match_whole]


def _in_turn(ways: dict[str, Callable[[int], float]], runs: int, *, turn: int = 1) -> list[Timing]:
    """As `time_interleaved`, of ways that say how many milliseconds they took."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(0)
    for start in range(0, runs, turn):
        for name, way in ways.items():
            times[name] += [way(run) for run in range(start, min(start + turn, runs))]
    return [summary(name, taken) for name, taken in times.items()]


def _search_whole(service: PgvectorRecognition, gallery: Gallery, probe: Float32Array, query: SearchQuery) -> None:
    """As `/recognize` searches, transaction included."""
    with service.searched(gallery, [probe], query, Deadline.after(60)):
        pass


def _naive(database: Database, asked: _Asked) -> str:
    """The same vectors in a table as one makes it without further thought: `vector`, out of line, without an index."""
    table = "bench_default"
    with database.maintenance() as connection:
        connection.execute(text(f"CREATE TABLE {table} (person uuid, embedding vector({asked.made.dimension}))"))
        connection.execute(
            text(f"INSERT INTO {table} SELECT person_id, embedding FROM {partition_name(asked.gallery.domain_id)}")
        )
        connection.execute(text(f"VACUUM ANALYZE {table}"))
        connection.execute(text(f"GRANT SELECT ON {table} TO facedex_app"))
    return table


def _bare_indexes(database: Database, asked: _Asked, told: _Told) -> None:
    """The index that production has, and one of `vector` where that is quick to build; no person is looked up."""
    partition, dimension = partition_name(asked.gallery.domain_id), asked.made.dimension
    half = f"CAST(embedding AS halfvec({dimension})) <=> CAST(%(probe)b AS halfvec({dimension}))"
    with database.maintenance() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        raw.execute("SET enable_seqscan = off")
        _by_ef(raw, asked, "halfvec", f"SELECT person_id FROM {partition} ORDER BY {half} LIMIT 1", told)
        if len(asked.made) > _BARE_INDEX_MAX_ROWS:
            return
        raw.execute(
            f"CREATE TABLE bench_vector AS SELECT person_id, CAST(embedding AS vector({dimension})) FROM {partition}".encode()
        )
        raw.execute("CREATE INDEX ON bench_vector USING hnsw (embedding vector_cosine_ops)")
        _by_ef(
            raw, asked, "vector", "SELECT person_id FROM bench_vector ORDER BY embedding <=> %(probe)b LIMIT 1", told
        )
        raw.execute("DROP TABLE bench_vector")


def _by_ef(raw: psycopg.Connection, asked: _Asked, form: str, query: str, told: _Told) -> None:
    names = dict(
        raw.execute("SELECT id, label FROM persons WHERE domain_id = %s", (asked.gallery.domain_id,)).fetchall()
    )
    wanted = [
        (Vector(probe), person)
        for probe, person in zip(asked.clear, asked.right["clear"].tolist(), strict=True)
        if person >= 0
    ]
    for ef in _EF:
        raw.execute(f"SET hnsw.ef_search = {ef}".encode())
        times, right = [], []
        for probe, person in wanted:
            started_s = time.perf_counter()
            found = raw.execute(query.encode(), {"probe": probe}, prepare=True).fetchall()
            times.append((time.perf_counter() - started_s) * 1e3)
            right.append(bool(found) and names[found[0][0]] == label(person))
        told.bare.append((asked.name, form, ef, f"{np.mean(right):.4f}", float(np.median(times))))


def _restart(server: Server, asked: _Asked, told: _Told, *, cold: bool) -> None:
    """Stop the server, throw its files out of the system's cache, start it, prewarm as `scripts/serve` does, and ask."""
    steady = _ask_ten(server, asked, warm=True)
    server.stop()
    if cold:
        forget_files(server.settings.storage_dir / "postgres")
    server.start()
    warmed = prewarm(server.database, limit_s=60)
    first = _ask_ten(server, asked, warm=False)
    told.restarts.append(
        (asked.name, "not in memory", float(np.median(first)), max(first), float(np.median(steady)), warmed.elapsed_s)
    )
    told.facts[f"{asked.name}: the first ten after a restart over steady, median"] = verdict(
        float(np.median(first) / np.median(steady)), _RESTART_AIM
    )


def _ask_ten(server: Server, asked: _Asked, *, warm: bool) -> list[float]:
    """The same ten probes, at once or after many others: with different ones, more or fewer would need an exact pass."""
    query = SearchQuery(asked.gallery.contract, _TOP_K, _THRESHOLD, _MARGIN)
    service = PgvectorRecognition(server.settings, server.database, CircuitBreaker())
    server.database.check_ready()  # as whoever waits for the service has the web do
    ten = asked.clear[:10]
    times = []
    for probe in (*asked.clear[10:100], *ten) if warm else ten:
        started_s = time.perf_counter()
        _search_whole(service, asked.gallery, probe, query)
        times.append((time.perf_counter() - started_s) * 1e3)
    return times[-len(ten) :]


def _delete_a_tenth(database: Database, asked: _Asked, told: _Told) -> None:
    persons = len(asked.made.identities)
    gone = frozenset(range(0, persons, 10))
    with database.bulk_transaction() as session:
        session.execute(
            text("DELETE FROM persons WHERE domain_id = :domain AND label = ANY(CAST(:labels AS text[]))"),
            {"domain": asked.gallery.domain_id, "labels": [label(person) for person in gone]},
        )
        recount_templates(session, asked.gallery.domain_id)
    _quality(database, asked, "a tenth deleted", told, gone)


def _many_domains(server: Server, name: str, domains: int, dimension: int, told: _Told) -> None:
    """The same domain's search, before and after the database has got many others; and one in each of these, in turn."""
    database = server.database
    service = PgvectorRecognition(server.settings, database, CircuitBreaker())
    small = one_each(_SMALL, dimension=dimension, seed=3)
    probes = around(small.identities, NOISE, 21)

    def in_domain(of: Callable[[int], str]) -> Callable[[int], object]:
        def run(number: int) -> object:
            gallery = service.open(of(number), Deadline.after(60)).gallery
            query = SearchQuery(gallery.contract, _TOP_K, _THRESHOLD, _MARGIN)
            return _search_whole(service, gallery, probes[number % len(probes)], query)

        return run

    make_domain(database, "other 0", dimension)
    store(database, "other 0", small)
    [before] = time_interleaved({"one domain": in_domain(lambda _: "other 0")}, 300)
    for number in range(1, domains):
        make_domain(database, f"other {number}", dimension)
    with database.maintenance() as connection:
        connection.execute(text("ANALYZE domains"))
    for number in range(1, domains):
        store(database, f"other {number}", small)
    after, turns = time_interleaved(
        {
            "same domain of many": in_domain(lambda _: "other 0"),
            "in turn": in_domain(lambda run: f"other {run % domains}"),
        },
        300,
    )
    told.facts[f"a domain of {_SMALL} templates: alone, beside {domains - 1} others, each of them in turn"] = (
        f"{before.median_ms:.2f}, {after.median_ms:.2f}, {turns.median_ms:.2f} ms at p50"
    )
    told.facts["a thousand domains over one"] = verdict(after.median_ms / before.median_ms, 1.1)
