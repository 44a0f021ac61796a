"""A domain's own partition of `face_embeddings` and its HNSW index: making, dropping, building, inspecting.

The index covers the embedding rounded to half precision, at half the size; the table keeps float32, which is what
distances are reported from. Names follow from the domain's id alone.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg.errors
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from app.db.session import Database, as_owner, set_local
from app.db.unit import APP_ROLE
from app.errors import DomainNotFound

HNSW_M: Final = 16
HNSW_EF_CONSTRUCTION: Final = 64

# Of pgvector's graph in memory, beside the vector: the element, and its neighbours at the lowest level (2 m of 16 bytes) and
# above.
_GRAPH_BYTES_PER_ROW: Final = 1000
# The server's operator knows its memory better than we do. A graph that does not fit is built on the disk from there on: of a
# million vectors of 512 dimensions, which need 2 GB, one with 1 GB was not done after a quarter of an hour.
_BUILD_MEMORY_FACTOR: Final = 4
_BUILD_MEMORY_MAX_KB: Final = 4 * 1024 * 1024

# A statement that waits for one of these locks makes later searches wait behind it.
_DDL_LOCK_TIMEOUT: Final = "5s"

_STATE_SQL: Final = """
SELECT i.indexrelid IS NOT NULL, coalesce(i.indisvalid AND i.indisready, false),
    coalesce(pg_relation_size(i.indexrelid), 0), pg_relation_size(CAST(:table AS regclass)), (SELECT count(*) FROM {table})
FROM (SELECT to_regclass(:name) AS oid) AS wanted LEFT JOIN pg_index AS i ON i.indexrelid = wanted.oid
"""


@dataclass(frozen=True, slots=True)
class IndexState:
    """What a status report says of a domain's index.

    Attributes:
        name: of the index.
        exists, valid: `valid` is false while it is built concurrently, and for good when that failed.
        size_bytes: of the index on disk.
        table_bytes: of the partition on disk, without indexes.
        rows: templates in the partition, counted.
    """

    name: str
    exists: bool
    valid: bool
    size_bytes: int
    table_bytes: int
    rows: int


def partition_name(domain_id: int) -> str:
    """The partition's table."""
    # int(): the name goes into SQL text, so nothing but digits may ever stand here.
    return f"face_embeddings_{int(domain_id)}"


def index_name(domain_id: int) -> str:
    """The partition's HNSW index."""
    return f"{partition_name(domain_id)}_hnsw"


def create_partition(session: Session, domain_id: int, dimension: int) -> None:
    """Make the domain's empty partition with its index, in the caller's transaction.

    The table is made first and attached then: attaching lets searches of other domains go on, which `CREATE TABLE …
    PARTITION OF` would not. Enrolments wait until the transaction ends.
    """
    table = partition_name(domain_id)
    set_local(session, lock_timeout=_DDL_LOCK_TIMEOUT)
    with as_owner(session):
        session.execute(
            text(
                f"CREATE TABLE {table} (LIKE face_embeddings INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING CONSTRAINTS,"
                f" CONSTRAINT {table}_domain_check CHECK (domain_id = {int(domain_id)}),"
                f" CONSTRAINT {table}_dimension_check CHECK (vector_dims(embedding) = {int(dimension)}))"
            )
        )
        session.execute(text(_wall_sql(domain_id)))
        session.execute(text(f"ALTER TABLE face_embeddings ATTACH PARTITION {table} FOR VALUES IN ({int(domain_id)})"))
        session.execute(text(f"SELECT watch_templates('{table}')"))
        session.execute(text(_create_index_sql(domain_id, dimension)))
        session.execute(text(_no_statistics_sql(domain_id)))


def drop_partition(session: Session, domain_id: int) -> None:
    """Drop the partition with all its templates, in the caller's transaction."""
    set_local(session, lock_timeout=_DDL_LOCK_TIMEOUT)
    with as_owner(session):
        session.execute(text(f"DROP TABLE IF EXISTS {partition_name(domain_id)}"))


def drop_index(session: Session, domain_id: int) -> None:
    """Drop the HNSW index, before a bulk load. Searches are exact until it is built again."""
    set_local(session, lock_timeout=_DDL_LOCK_TIMEOUT)
    with as_owner(session):
        session.execute(text(f"DROP INDEX IF EXISTS {index_name(domain_id)}"))


def rebuild_index(database: Database, domain_id: int, dimension: int) -> None:
    """Build the index anew while searches and enrolments go on; makes a missing or invalid one valid again.

    Raises:
        DatabaseUnavailable, DatabaseTimeout: the build failed; the old index, if any, is still in use.
    """
    with database.maintenance() as connection:
        build_index(connection, domain_id, dimension, anew=True)


def build_index(
    connection: Connection, domain_id: int, dimension: int, *, anew: bool = False, writers_wait: bool = False
) -> None:
    """Build the index while searches go on, and gather statistics; one that is valid stays as it is.

    Args:
        connection: of `Database.maintenance`.
        anew: build a valid one again too.
        writers_wait: let enrolments wait, instead of taking a sixth longer to let them go on.

    Raises:
        DomainNotFound: it was deleted meanwhile.
    """
    name = index_name(domain_id)
    with gone_means_deleted():
        # What an earlier build that failed has left behind: no search uses it, but every write pays for it.
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}_ccnew"))
        if not index_is_valid(connection, domain_id):
            _set_build_memory(connection, domain_id, dimension)
            _build_missing(connection, domain_id, dimension, concurrently=not writers_wait)
        elif anew:
            _set_build_memory(connection, domain_id, dimension)
            connection.execute(text(f"REINDEX INDEX CONCURRENTLY {name}"))
        # A vacuum notes that all rows of a page are there for everybody: the index of persons then does without the table.
        # HNSW is left as it is: to take out of it what was deleted takes longer than all the rest.
        connection.execute(text(f"VACUUM (ANALYZE, INDEX_CLEANUP OFF, TRUNCATE OFF) {partition_name(domain_id)}"))
        connection.execute(text("ANALYZE persons"))


def build_index_within(connection: Connection, domain_id: int, dimension: int) -> None:
    """Build a missing index in the caller's transaction, which locks out enrolments: for migrations of the schema."""
    _set_build_memory(connection, domain_id, dimension, for_transaction=True)
    create = text(_create_index_sql(domain_id, dimension))
    try:
        with connection.begin_nested():
            connection.execute(create)
    except OperationalError as error:
        if not _is_out_of_space(error):
            raise
        connection.execute(text("SET LOCAL max_parallel_maintenance_workers = 0"))
        connection.execute(create)
    connection.execute(text(_no_statistics_sql(domain_id)))


def _build_missing(connection: Connection, domain_id: int, dimension: int, *, concurrently: bool) -> None:
    """In parallel and, where shared memory does not suffice for that, once more without."""
    try:
        _create_anew(connection, domain_id, dimension, concurrently=concurrently)
    except OperationalError as error:
        if not _is_out_of_space(error):
            raise
        connection.execute(text("SET max_parallel_maintenance_workers = 0"))
        _create_anew(connection, domain_id, dimension, concurrently=concurrently)


def _create_anew(connection: Connection, domain_id: int, dimension: int, *, concurrently: bool) -> None:
    connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {index_name(domain_id)}"))
    connection.execute(text(_create_index_sql(domain_id, dimension, concurrently=concurrently)))
    connection.execute(text(_no_statistics_sql(domain_id)))


def _is_out_of_space(error: OperationalError) -> bool:
    # Of memory, of shared memory (a small /dev/shm) or of disk: the server tells them apart in words only.
    return getattr(error.orig, "sqlstate", None) in ("53100", "53200")


def _set_build_memory(connection: Connection, domain_id: int, dimension: int, *, for_transaction: bool = False) -> None:
    """Enough for the graph, without which building takes several times as long, within limits; for this session."""
    rows = connection.scalar(text(f"SELECT count(*) FROM {partition_name(domain_id)}")) or 0  # noqa: S608 - digits
    given_kb = connection.scalar(text("SELECT setting::int FROM pg_settings WHERE name = 'maintenance_work_mem'")) or 0
    wanted_kb = rows * (_GRAPH_BYTES_PER_ROW + 2 * dimension) // 1024
    allowed_kb = max(given_kb, min(wanted_kb, _BUILD_MEMORY_FACTOR * given_kb, _BUILD_MEMORY_MAX_KB))
    setting = text("SELECT set_config('maintenance_work_mem', :kb, :local)")
    connection.execute(setting, {"kb": str(allowed_kb), "local": for_transaction})


def built_rows(session: Session, domain_id: int) -> int:
    """How many templates the index that is being built has taken in; 0 where none is."""
    query = text("SELECT max(tuples_done) FROM pg_stat_progress_create_index WHERE relid = to_regclass(:table)")
    with as_owner(session):  # of others' sessions, the server shows nothing
        return session.scalar(query, {"table": partition_name(domain_id)}) or 0


def index_state(session: Session, domain_id: int) -> IndexState:
    """The state of the domain's index and partition. Counts rows: for reports, not for each request.

    Raises:
        DomainNotFound: it was deleted meanwhile.
    """
    table, name = partition_name(domain_id), index_name(domain_id)
    with gone_means_deleted():
        row = session.execute(text(_STATE_SQL.format(table=table)), {"table": table, "name": name}).one()
    return IndexState(name, *row)


@contextmanager
def gone_means_deleted() -> Generator[None]:
    """A partition that is not there any more was dropped with its domain.

    Raises:
        DomainNotFound: just that.
    """
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise DomainNotFound("The domain was deleted.") from error
    except ProgrammingError as error:
        if isinstance(error.orig, psycopg.errors.UndefinedTable):
            raise DomainNotFound("The domain was deleted.") from error
        raise


def index_is_valid(connection: Session | Connection, domain_id: int) -> bool:
    """Whether searches can use the index."""
    query = text("SELECT indisvalid AND indisready FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(connection.scalar(query, {"name": index_name(domain_id)}))


def _wall_sql(domain_id: int) -> str:
    """Row-level security of a partition: queries that name it pass by that of its parent.

    All of its rows are one domain's, so the policy looks at no row: it is decided once for each statement.
    """
    table = partition_name(domain_id)
    return (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY;"
        f" ALTER TABLE {table} ALTER COLUMN embedding SET STATISTICS 0, ALTER COLUMN code SET STATISTICS 0;"
        f" CREATE POLICY tenant ON {table} USING ((SELECT sees_domain({int(domain_id)})));"
        f" GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {APP_ROLE}"
    )


def _create_index_sql(domain_id: int, dimension: int, *, concurrently: bool = False) -> str:
    return (
        f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}IF NOT EXISTS {index_name(domain_id)}"
        f" ON {partition_name(domain_id)}"
        f" USING hnsw ((CAST(embedding AS halfvec({int(dimension)}))) halfvec_cosine_ops)"
        f" WITH (m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION})"
    )


def _no_statistics_sql(domain_id: int) -> str:
    """Of an index's expression too, statistics would be samples of the vectors, which no erasure reaches."""
    return f"ALTER INDEX {index_name(domain_id)} ALTER COLUMN 1 SET STATISTICS 0"
