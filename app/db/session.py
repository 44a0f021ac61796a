"""Connections to PostgreSQL, made lazily in the process that uses them, and errors that callers can act on."""

import math
import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import sqlalchemy.exc
from pgvector.psycopg import register_vector
from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine, event, make_url, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from app.config import Settings
from app.db.places import Places, share_of
from app.db.prepared import correct, prepared
from app.db.server_files import embedded_url
from app.db.server_size import RESERVED_CONNECTIONS
from app.db.unit import APP_ROLE, Unit, current_unit, enter_sql, working
from app.errors import (
    DatabaseBusy,
    DatabaseDisabled,
    DatabaseTimeout,
    DatabaseUnavailable,
    FacedexError,
    InvalidEmbedding,
)
from app.tenancy import current_reach

# An execution option: what a transaction's connection is told as it begins.
_ENTER: Final = "facedex_enter"
# A mark on a connection of the pool that was made a moment ago.
_NEW: Final = "facedex_new"
# A statement that takes long to plan is kept by the server where a connection has used it so often before. Not from the first
# use on: of searches in a thousand domains, a connection would keep one after the other, and drop them again.
_COSTLY_FROM: Final = 1
_POOL_RECYCLE_S: Final = 1_800
# The server's own limit comes first; a server that does not keep to it, being stopped or hung, is given up this much later.
_GRACE_S: Final = 1.0
_READY_WITHIN_S: Final = 2.0
_BULK_LOCK_TIMEOUT: Final = "30s"
_IDLE_IN_TRANSACTION_S: Final = 60
# A host that vanished without a word is noticed within seconds instead of a quarter of an hour. Sockets on this machine
# ignore these.
_DEAD_PEER_OPTIONS: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

# SQLSTATEs of a server that is there but cannot serve now. https://www.postgresql.org/docs/current/errcodes-appendix.html
_TIMEOUTS: Final = {
    "57014": "A database statement ran past its time limit.",
    "55P03": "A database lock was not free in time.",
}
_UNAVAILABLE_CLASSES: Final = ("08", "28", "53", "58", "3D", "57P", "40", "25006")


def database_url(settings: Settings) -> URL:
    """Where the database is: `VECTOR_DB_URL`, or else the embedded server's socket.

    Raises:
        DatabaseDisabled: VECTOR_DB_ENABLED is false.
        DatabaseUnavailable: no URL is set, and the embedded server was never started in this storage folder.
    """
    if not settings.vector_db_enabled:
        raise DatabaseDisabled("The database is switched off (VECTOR_DB_ENABLED=false).")
    if settings.vector_db_url is not None:
        return make_url(settings.vector_db_url.get_secret_value()).set(drivername="postgresql+psycopg")
    return embedded_url(settings)


@dataclass(slots=True)
class _Process:
    """What belongs to one process: a connection must never be used on both sides of a fork."""

    places: Places
    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    engine: Engine | None = None


# Until when, on the monotonic clock, this thread waits for the server; None: for as long as it takes.
_give_up_at_s: ContextVar[float | None] = ContextVar("give_up_at_s", default=None)


class _BoundedConnection(psycopg.Connection[Any]):
    """Gives up a server that does not answer: `statement_timeout` is the server's to keep, and a hung one keeps nothing."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        until_s = _give_up_at_s.get()
        if until_s is not None and timeout is None:
            timeout = max(0.0, until_s - time.monotonic())
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()  # its answer, should it still come, belongs to nobody: the connection is of no more use
            raise psycopg.OperationalError("the server does not answer") from None


@contextmanager
def patience(seconds: float | None) -> Generator[None]:
    """Wait for the server no longer than this, in all that the block does with it; None: for as long as it takes."""
    token = _give_up_at_s.set(None if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _give_up_at_s.reset(token)


class Database:
    """The pool of connections of this process. Nothing is opened before the first use; after a fork it starts anew.

    Args:
        reserved: make a small pool instead (`reserve`).
    """

    def __init__(self, settings: Settings, *, reserved: bool = False) -> None:
        self._settings = settings
        self._size = RESERVED_CONNECTIONS if reserved else settings.db_pool_size
        self._most = self._size if reserved else share_of(self._size)
        self._process = self._started()
        self._reserve: Database | None = None
        self._here = threading.local()

    @property
    def reserve(self) -> "Database":
        """The same server by connections of its own, for work that must not wait behind the requests of tenants."""
        if self._reserve is None:
            self._reserve = Database(self._settings, reserved=True)
        return self._reserve

    @property
    def engine(self) -> Engine:
        """This process's engine.

        Raises:
            DatabaseUnavailable: as `database_url`.
        """
        process = self._own_process()
        with process.lock:
            if process.engine is None:
                process.engine = self._pooled_engine()
                # Whoever drops this object without closing it leaves no connection open.
                weakref.finalize(self, _dispose, process.engine, process.pid).atexit = False
            return process.engine

    @contextmanager
    def transaction(self, timeout_s: float | None = None, *, wait_s: float | None = None) -> Generator[Session]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        It sees and changes what `app.tenancy.current_reach` says, and nothing else.

        Args:
            timeout_s: limit of each statement in it, where shorter than DB_STATEMENT_TIMEOUT_S.
            wait_s: limit of the wait for a connection, and for each lock, where shorter than that.

        Raises:
            DatabaseBusy: all connections, or whoever acts' share of them, were in use for too long.
            DatabaseUnavailable: no connection, or it was lost; nothing of the block is stored, unless the connection
                was lost during the commit itself.
            DatabaseTimeout: a statement, or the wait for a lock, took too long; nothing of the block is stored.
            InvalidEmbedding: a vector that is not finite, or not of unit length.
            sqlalchemy.exc.IntegrityError: another constraint was violated.
        """
        limit_s, settings = self._limits(timeout_s)
        if wait_s is not None:
            settings = settings | {"lock_timeout": f"{max(1, round(wait_s * 1000))}ms"}
        if (unit := current_unit(self)) is not None:
            with translated_errors(), unit.joined(settings) as session:  # with the unit's patience
                yield session
            return
        with self._begun(limit_s, settings, wait_s) as session:
            yield session

    def ask(self, statement: str, values: Mapping[str, Any], timeout_s: float | None = None) -> list[tuple[Any, ...]]:
        """A transaction of one statement, to the server and back once: what is small costs little else than its way.

        In the block of a `bare_transaction` it is the last statement of that, and commits it.

        Args:
            statement: as of the driver, with `%(name)s` for each value, and one of few: a connection keeps the plan of each.
            timeout_s: as of `transaction`.

        Returns:
            its rows; what it has changed is committed.

        Raises: as `transaction`.
        """
        if current_unit(self) is not None:
            with self.transaction(timeout_s) as session:
                return fetch_raw(session, statement, values)
        limit_s, settings = self._limits(timeout_s)
        begin = f"BEGIN; {enter_sql(current_reach(), settings)}"
        if (begun := self._begun_here()) is not None:
            with translated_errors(), patience(limit_s + _GRACE_S):
                limit = f"SET LOCAL statement_timeout = {max(1, round(limit_s * 1000))}"
                return _finish(begun.connection, limit, statement, values, anew=begin)
        with self._driver_connection(limit_s) as connection:
            return _finish(connection, begin, statement, values, anew=begin)

    @contextmanager
    def bare_transaction(
        self, timeout_s: float | None = None, settings: Mapping[str, str] | None = None
    ) -> Generator["Session | BareTransaction"]:
        """As `transaction`, for reading by `fetch_raw`: what a session of SQLAlchemy does around it takes as long as a search.

        What is to be stored is stored by `ask`, in the block; a connection that is lost at its end takes nothing away from
        what was read.

        Args:
            timeout_s: as of `transaction`.
            settings: of the server, for this transaction.

        Raises: as `transaction`.
        """
        limit_s, limits = self._limits(timeout_s)
        settings = limits | dict(settings or {})
        if (unit := current_unit(self)) is not None:
            with translated_errors(), unit.joined(settings) as session:
                yield session
            return
        with self._driver_connection(limit_s) as connection:
            connection.execute(f"BEGIN; {enter_sql(current_reach(), settings)}".encode())
            begun = BareTransaction(connection, settings)
            self._here.begun = begun
            try:
                yield begun
            finally:
                self._here.begun = None
            if begun.is_open:
                with suppress(psycopg.Error):
                    connection.commit()

    def _begun_here(self) -> "BareTransaction | None":
        """This thread's bare transaction, while nothing has ended it."""
        begun: BareTransaction | None = getattr(self._here, "begun", None)
        return begun if begun is not None and begun.is_open else None

    @contextmanager
    def _driver_connection(self, limit_s: float) -> Generator[psycopg.Connection[Any]]:
        """A connection of the pool; what was begun with it and is not committed is rolled back."""
        with self._place(limit_s), translated_errors(), patience(limit_s + _GRACE_S):
            pooled = self.engine.raw_connection()
            connection = pooled.driver_connection
            assert isinstance(connection, psycopg.Connection)
            try:
                yield connection
            finally:
                lost = connection.closed
                pooled.close()
                if lost:  # so are the others, most likely: a host that has vanished closes none
                    self.engine.dispose()

    @contextmanager
    def unit_of_work(self, timeout_s: float | None = None) -> Generator[Session]:
        """As `transaction`; the transactions that this thread begins in the block are parts of it, as savepoints.

        So they are stored together, at the end of the block, or not at all. `maintenance` stays apart: what is done in the
        block it neither sees nor gets past.

        Args:
            timeout_s: as of `transaction`; no more than this is waited for the server in the whole block.

        Raises: as `transaction`.
        """
        limit_s, settings = self._limits(timeout_s)
        with self._begun(limit_s, settings) as session:
            unit = Unit(self, session, settings)
            with working(unit):
                yield session
        for act in unit.afterwards:
            act()

    def once_committed(self, act: Callable[[], None]) -> None:
        """Do something once what this thread has stored is there for others: after its unit of work, or now without one."""
        if (unit := current_unit(self)) is not None:
            unit.afterwards.append(act)
        else:
            act()

    @contextmanager
    def bulk_transaction(self) -> Generator[Session]:
        """As `transaction`, for loading and exporting: its statements take as long as they take; locks are waited for a while.

        Raises: as `transaction`.
        """
        settings = {"statement_timeout": "0", "lock_timeout": _BULK_LOCK_TIMEOUT}
        if (unit := current_unit(self)) is not None:
            with translated_errors(), patience(None), unit.joined(settings) as session:
                yield session
            return
        with self._begun(None, settings) as session:
            yield session

    @contextmanager
    def maintenance(self) -> Generator[Connection]:
        """A connection of its own, in autocommit and without a statement timeout, for building and repairing indexes.

        It is the owner's, and sees every domain.

        Raises:
            DatabaseUnavailable: no connection, or it was lost.
        """
        with translated_errors():
            engine = unpooled_engine(self._settings, timeout_s=0)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                # The policies are forced on the owner too.
                connection.execute(text("SET facedex.domains = '*'"))
                yield connection

    def ping(self) -> None:
        """Ask the server for nothing.

        Raises:
            DatabaseUnavailable, DatabaseTimeout: it does not answer.
        """
        with self.transaction() as session:
            session.execute(text("SELECT 1"))

    def check_ready(self) -> None:
        """Whether it answers and has the schema that this program expects.

        Raises:
            DatabaseUnavailable, DatabaseTimeout: it does not answer, or was not migrated.
        """
        from app.db.schema import require_head  # here, since that needs connections

        with self._place(_READY_WITHIN_S), patience(_READY_WITHIN_S):
            require_head(self.engine)

    def close(self) -> None:
        """Close this process's connections. A later use opens new ones."""
        process = self._process
        if process.pid == os.getpid() and process.engine is not None:
            process.engine.dispose()
        if self._reserve is not None:
            self._reserve.close()

    def _own_process(self) -> _Process:
        if self._process.pid != os.getpid():
            # The parent's connections are left alone: closing them here would end the parent's sessions.
            self._process = self._started()
        return self._process

    def _started(self) -> _Process:
        return _Process(Places(self._size, self._most))

    def _place(self, limit_s: float | None) -> AbstractContextManager[None]:
        """Waited for apart from the server, which is not to blame for it."""
        usual_s = self._settings.db_pool_timeout_s
        wait_s = usual_s if limit_s is None else min(usual_s, limit_s)
        reach = current_reach()
        # A tenant's keys have one share between them: an administrator of theirs can make many.
        return self._own_process().places.held(reach.as_setting if reach.ids else reach.client, wait_s)

    def _limits(self, timeout_s: float | None) -> tuple[float, dict[str, str]]:
        """The limit of a statement in seconds, and the settings that it needs where it is not the usual one."""
        usual_s = self._settings.db_statement_timeout_s
        if timeout_s is None or timeout_s >= usual_s:
            return usual_s, {}
        return timeout_s, {"statement_timeout": f"{max(1, round(timeout_s * 1000))}ms"}

    @contextmanager
    def _begun(
        self, limit_s: float | None, settings: dict[str, str], wait_s: float | None = None
    ) -> Generator[Session]:
        with (
            self._place(limit_s if wait_s is None else wait_s),
            translated_errors(),
            patience(None if limit_s is None else limit_s + _GRACE_S),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            session.connection(execution_options={_ENTER: enter_sql(current_reach(), settings)})
            yield session

    def _pooled_engine(self) -> Engine:
        engine = _engine(
            database_url(self._settings),
            self._settings,
            timeout_s=self._settings.db_statement_timeout_s,
            # The driver would begin transactions in a turn of its own.
            driver_begins=False,
            poolclass=_Pool,
            pool_size=self._size,
            max_overflow=0,
            pool_timeout=self._settings.db_pool_timeout_s,
            pool_recycle=_POOL_RECYCLE_S,
            pool_use_lifo=True,
        )
        event.listen(engine, "checkout", _require_connected)
        event.listen(engine, "begin", _begin)
        return engine


class _Pool(QueuePool):
    """A pool that, once it was given up, closes what comes back to it: such connections would lie in it, open, until somebody
    collects it.
    """

    _is_given_up = False

    def dispose(self) -> None:
        """Close those that nobody uses; the others follow. An engine has another pool from then on."""
        self._is_given_up = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        if self._is_given_up:  # looked at afterwards: whoever gave it up may just have missed this one
            super().dispose()


def unpooled_engine(settings: Settings, *, timeout_s: float) -> Engine:
    """An engine that makes a new connection for each use, whose statements may take so long; 0: as long as they take.

    Raises:
        DatabaseUnavailable, DatabaseDisabled: as `database_url`.
    """
    return _engine(database_url(settings), settings, timeout_s=timeout_s, poolclass=NullPool)


@contextmanager
def as_owner(session: Session) -> Generator[None]:
    """In the block, be the role that owns the tables, which alone may make and drop partitions and indexes."""
    session.execute(text("SET LOCAL ROLE NONE"))
    yield
    # Where the block raised, the transaction is over, or goes back to where this was not yet said.
    session.execute(text(f"SET LOCAL ROLE {APP_ROLE}"))


def set_local(session: Session | Connection, **values: str) -> None:
    """`SET LOCAL` each of them, in one round trip. They end with the transaction, not with the connection."""
    # hnsw.ef_search and its like are written hnsw__ef_search.
    calls = ", ".join(f"set_config('{name.replace('__', '.')}', :{name}, true)" for name in values)
    session.execute(text(f"SELECT {calls}"), values)


@dataclass(slots=True)
class BareTransaction:
    """A transaction for `fetch_raw` alone; ends with the block that it was made in.

    Attributes:
        connection: the driver's.
        settings: of the server, which are in force as long as it lasts.
    """

    connection: psycopg.Connection[Any]
    settings: Mapping[str, str]

    @property
    def is_open(self) -> bool:
        """Whether something can still be done in it."""
        return self.connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def _finish(
    connection: psycopg.Connection[Any], before: str, statement: str, values: Mapping[str, Any], *, anew: str
) -> list[tuple[Any, ...]]:
    """The rows of the statement, after which the transaction is committed.

    Args:
        before: what is said first, in the same text.
        anew: in its place, where what the connection had prepared is gone, and nothing of the transaction is left.
    """
    with psycopg.ClientCursor(connection) as cursor:
        try:
            cursor.execute(f"{before}; {prepared(connection, statement)}; COMMIT".encode(), values)
        except (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement) as error:
            connection.rollback()
            correct(connection, statement, is_there=isinstance(error, psycopg.errors.DuplicatePreparedStatement))
            cursor.execute(f"{anew}; {prepared(connection, statement)}; COMMIT".encode(), values)
        cursor.set_result(-2)  # before that of COMMIT
        return _rows(cursor)


def fetch_raw(
    session: Session | BareTransaction,
    query: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    costly: bool = False,
) -> list[tuple[Any, ...]]:
    """All rows of a statement, by the driver's own cursor: for the few that every request makes.

    What SQLAlchemy does around a statement takes several times as long as the server's round trip. `%(name)b` in the query
    is sent as binary: a vector as text takes half a millisecond to write and to read.

    Args:
        costly: to plan: the server keeps the plan from the connection's second use of the statement on, not from its sixth.

    Raises:
        psycopg.Error: as the driver says it; `translated_errors` knows them.
    """
    if isinstance(session, BareTransaction):
        raw = session.connection
    else:
        session.flush()
        raw = session.connection().connection.driver_connection  # type: ignore[assignment]
        assert isinstance(raw, psycopg.Connection)
    with raw.cursor() as cursor:
        usual = raw.prepare_threshold
        try:
            if costly and usual is not None:  # None: it keeps nothing
                raw.prepare_threshold = _COSTLY_FROM
            cursor.execute(query.encode(), parameters)
        finally:
            raw.prepare_threshold = usual
        return _rows(cursor)


def _rows(cursor: psycopg.Cursor[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """All of its result, if it is one of rows. `description` would tell too, and make an object for each column."""
    return cursor.fetchall() if cursor.pgresult is not None and cursor.pgresult.nfields else []


def _dispose(engine: Engine, pid: int) -> None:
    """Close an engine's connections, in the process that they belong to."""
    if pid == os.getpid():
        engine.dispose()


@contextmanager
def translated_errors() -> Generator[None]:
    """Turn the driver's errors into Facedex's. Messages name no host, user or statement."""
    try:
        yield
    except sqlalchemy.exc.TimeoutError as error:
        raise DatabaseBusy("No database connection became free in time.") from error
    except sqlalchemy.exc.DBAPIError as error:
        translated = _translated(error.orig, lost=error.connection_invalidated)
        if translated is None:
            raise
        raise translated from error
    except psycopg.Error as error:  # of a statement that went past SQLAlchemy: callers know one kind of errors
        translated = _translated(error, lost=False)
        if translated is None:
            raise sqlalchemy.exc.DBAPIError.instance(None, None, error, psycopg.Error, hide_parameters=True) from error
        raise translated from error


def driver_reason(error: BaseException) -> str:
    """The first line of what the driver said, for an operator: hosts, roles and databases, never a password; else empty."""
    while not isinstance(error, psycopg.Error):
        cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error.__cause__
        if cause is None:
            return ""
        error = cause
    return str(error).partition("\n")[0]


def _is_unusable_embedding(error: psycopg.Error) -> bool:
    """Whether a vector was refused: by its table's constraint, or by pgvector, whose words alone tell it from other data."""
    if isinstance(error, psycopg.errors.CheckViolation):
        return (error.diag.constraint_name or "").endswith("_embedding_check")
    return isinstance(error, psycopg.errors.DataException) and "not allowed in vector" in str(error)


def _translated(error: BaseException | None, *, lost: bool) -> FacedexError | None:
    """The error of ours that says the same; None where it is a mistake of the caller's or of the program's."""
    if not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate or ""
    if state in _TIMEOUTS:
        return DatabaseTimeout(_TIMEOUTS[state])
    if _is_unusable_embedding(error):
        return InvalidEmbedding("An embedding is not a vector of unit length.")
    # Without a state the server said nothing: the connection failed or broke, or its address has options that there are not.
    silent = not state and isinstance(error, psycopg.OperationalError | psycopg.ProgrammingError)
    if lost or silent or state.startswith(_UNAVAILABLE_CLASSES):
        return DatabaseUnavailable("The database cannot be reached, or cannot serve the request now.")
    return None


def _engine(url: URL, settings: Settings, *, timeout_s: float, driver_begins: bool = True, **pool: Any) -> Engine:
    options = {
        "statement_timeout": round(timeout_s * 1000),
        "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION_S * 1000,
        # Compiling a query takes longer than any of ours runs.
        "jit": "off",
        # Moments come back as they are answered, and the last hours of the year 9999 come back at all.
        "timezone": "UTC",
    }
    flags = " ".join(f"-c {name}={value}" for name, value in options.items())
    given = url.query.get("options", "")
    engine = create_engine(
        url.difference_update_query(["options"]),
        connect_args={
            "connect_timeout": settings.db_connect_timeout_s,
            "application_name": "facedex",
            "autocommit": not driver_begins,
            **_DEAD_PEER_OPTIONS,
            "options": f"{given if isinstance(given, str) else ' '.join(given)} {flags}".strip(),
        },
        hide_parameters=True,
        **pool,
    )
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "connect", _register_vector)
    return engine


def _begin(connection: Connection) -> None:
    """Begin a transaction, together with what it is to be said first, in one round trip."""
    first = connection.get_execution_options().get(_ENTER)
    connection.exec_driver_sql(f"BEGIN; {first}" if first else "BEGIN")


def _require_connected(connection: psycopg.Connection[Any], record: ConnectionPoolEntry, _proxy: object) -> None:
    """Have the pool make a new connection in place of one that the server has closed.

    A look at the socket, where `pool_pre_ping` asks the server. To a connection that waits in the pool nothing is sent: what
    there is to be read is its end, or tells at least that the server is not what it was.

    Raises:
        DisconnectionError: it is no more.
    """
    if record.info.pop(_NEW, False):  # of a server that closes them all, the first statement has to tell
        return
    if connection.closed:
        raise sqlalchemy.exc.DisconnectionError
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLRDHUP)
    if poll.poll(0):
        raise sqlalchemy.exc.DisconnectionError


def _connect(_dialect: object, _record: object, _args: object, parameters: dict[str, Any]) -> psycopg.Connection[Any]:
    until_s = _give_up_at_s.get()
    if until_s is not None:
        left_s = until_s - time.monotonic()
        if left_s <= 0:  # the pool tries again with a new connection when one was found broken
            raise psycopg.OperationalError("the server does not answer")
        # libpq counts in whole seconds, at least two of them.
        parameters = parameters | {"connect_timeout": min(parameters["connect_timeout"], math.ceil(left_s))}
    return _BoundedConnection.connect(**parameters)


def _register_vector(connection: psycopg.Connection[Any], record: ConnectionPoolEntry) -> None:
    """Teach the connection the type `vector`, where the database has it: before the first migration it has not."""
    usual, connection.autocommit = connection.autocommit, True
    try:
        known = connection.execute("SELECT to_regtype('vector') IS NOT NULL").fetchone()
        if known is not None and known[0]:
            register_vector(connection)
            # Loads the library: until then its settings (hnsw.ef_search) are not known, and setting them is not checked.
            connection.execute("SELECT CAST('[0]' AS vector)")
        connection.autocommit = usual
        record.info[_NEW] = True
    except BaseException:
        connection.close()  # the pool does not know it yet
        raise
