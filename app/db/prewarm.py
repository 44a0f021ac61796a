"""Reads galleries into the server's memory before the first search waits for the disk."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.db.codes import has_codes
from app.db.partitions import gone_means_deleted, partition_name
from app.db.session import Database, patience
from app.errors import DomainNotFound

# The rest is for the tables that every request asks.
_SHARE_OF_BUFFERS: Final = 0.75
# An index is known once searches from many sides find hardly anything that is not in memory.
_PAGE_BYTES: Final = 8192
_PROBES: Final = 64
_EF_SEARCH: Final = 1_000
_COLD_SHARE: Final = 0.01
_WARM_IN_A_ROW: Final = 2

# The busiest first, as far as the server's statistics, which a clean stop keeps, remember.
_GALLERIES_SQL: Final = """
SELECT d.id, d.dimension, pg_relation_size(t.oid), pg_indexes_size(t.oid), i.indexrelid IS NOT NULL
FROM domains AS d
JOIN pg_class AS t ON t.oid = to_regclass(:table || d.id)
LEFT JOIN pg_index AS i ON i.indexrelid = to_regclass(:table || d.id || '_hnsw') AND i.indisvalid AND i.indisready
LEFT JOIN pg_stat_user_tables AS used ON used.relid = t.oid
WHERE d.template_count > 0
ORDER BY coalesce(used.seq_scan, 0) + coalesce(used.idx_scan, 0) DESC, d.id
"""
_BY_EXTENSION_SQL: Final = """
SELECT pg_prewarm(t.oid), (SELECT sum(pg_prewarm(i.indexrelid)) FROM pg_index AS i WHERE i.indrelid = t.oid AND i.indisvalid)
FROM to_regclass(:table) AS t (oid) WHERE t.oid IS NOT NULL
"""
_BUFFERS_SQL: Final = (
    "SELECT setting::bigint * 8192, to_regproc('pg_prewarm') IS NOT NULL FROM pg_settings WHERE name = 'shared_buffers'"
)
# The server keeps its limit by itself; one that does not is given up so much later.
_GRACE_S: Final = 1.0
# A table that somebody rewrites, or a slow disk, must not keep the service from its start.
_LIMITS_SQL: Final = "SET lock_timeout = '1s'; SET statement_timeout = {limit_ms}"


@dataclass(frozen=True, slots=True)
class Warmed:
    """What was read: galleries and their size, how many were left for their first searches, and how long it took."""

    galleries: int
    size_bytes: int
    left_out: int
    elapsed_s: float


def prewarm(database: Database, *, limit_s: float, go_on: Callable[[], bool] = lambda: True) -> Warmed:
    """Read the busiest galleries, with their indexes, as far as they fit into the server's buffers.

    By the extension pg_prewarm where the server has it; else by scans and searches, which read just what searches need.

    Args:
        limit_s: begin nothing new after so long, and give up a server that has not answered by then.
        go_on: asked before each gallery.

    Raises:
        DatabaseUnavailable: no connection, or it was lost.
        DatabaseTimeout: something took longer than `limit_s`, or a table was not to be had.
    """
    started_s = time.monotonic()
    until_s = started_s + limit_s
    warmed, size_bytes = 0, 0
    with patience(max(limit_s, 0.0) + _GRACE_S), database.maintenance() as connection:
        connection.execute(text(_LIMITS_SQL.format(limit_ms=max(1000, round(limit_s * 1000)))))
        _create_extension(connection)
        buffers_bytes, has_extension = connection.execute(text(_BUFFERS_SQL)).one()
        found = connection.execute(text(_GALLERIES_SQL), {"table": partition_name(0)[:-1]}).all()
        _settle(connection)
        for domain_id, dimension, table_bytes, indexes_bytes, has_hnsw in found:
            if time.monotonic() > until_s or not go_on():
                break
            if size_bytes + table_bytes + indexes_bytes > buffers_bytes * _SHARE_OF_BUFFERS:
                continue
            try:
                with gone_means_deleted():
                    if has_extension:
                        _by_extension(connection, domain_id)
                    else:
                        pages = table_bytes // _PAGE_BYTES
                        _by_asking(connection, domain_id, dimension, pages, until_s=until_s, has_hnsw=has_hnsw)
            except DomainNotFound:
                continue
            warmed, size_bytes = warmed + 1, size_bytes + table_bytes + indexes_bytes
    return Warmed(warmed, size_bytes, len(found) - warmed, time.monotonic() - started_s)


def _create_extension(connection: Connection) -> None:
    """Where the server has it and lets us; asking it is as good, only slower."""
    try:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_prewarm"))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise


def _settle(connection: Connection) -> None:
    # The library first: before it is loaded, its settings are not known.
    connection.execute(text("SELECT CAST('[0]' AS vector)"))
    connection.execute(text(f"SET hnsw.ef_search = {_EF_SEARCH}; SET enable_seqscan = off"))


def _by_extension(connection: Connection, domain_id: int) -> None:
    # A domain that was deleted meanwhile has no table.
    connection.execute(text(_BY_EXTENSION_SQL), {"table": partition_name(domain_id)})


def _by_asking(
    connection: Connection, domain_id: int, dimension: int, pages: int, *, until_s: float, has_hnsw: bool
) -> None:
    table = partition_name(domain_id)
    # Every page: an index would do for the mere count of rows, and of a column that cannot be null the answer is known.
    connection.execute(text(f"SELECT count(*) FROM {table} WHERE sharpness < -1"))  # noqa: S608 - digits
    if has_codes(dimension):  # all that is asked for here is in the index of persons, which a pass by codes reads
        asked = f"SELECT count(*) FROM {table} WHERE domain_id = :domain_id AND bit_count(code) < 0"  # noqa: S608 - digits
        connection.execute(text(asked), {"domain_id": domain_id})
    if not has_hnsw:
        return
    # Of pages all over the table: persons lie in the order in which they came.
    probes = connection.scalars(
        text(f"SELECT CAST(embedding AS text) FROM {table} TABLESAMPLE SYSTEM (:percent) LIMIT :probes"),  # noqa: S608
        {"percent": min(100.0, 100.0 * _PROBES / max(1, pages)), "probes": _PROBES},
    ).all()
    warm = 0
    for probe in probes:
        warm = warm + 1 if _cold_share(connection, table, dimension, probe) < _COLD_SHARE else 0
        if warm == _WARM_IN_A_ROW or time.monotonic() > until_s:
            return


def _cold_share(connection: Connection, table: str, dimension: int, probe: str) -> float:
    """Search the index; how much of what was read was not in memory."""
    cast = f"halfvec({int(dimension)})"
    plan: list[dict[str, Any]] = connection.scalar(
        text(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) SELECT FROM {table}"
            f" ORDER BY CAST(embedding AS {cast}) <=> CAST(CAST(:probe AS vector) AS {cast}) LIMIT {_EF_SEARCH}"
        ),
        {"probe": probe},
    )
    read, hit = plan[0]["Plan"]["Shared Read Blocks"], plan[0]["Plan"]["Shared Hit Blocks"]
    return float(read / max(1, read + hit))
