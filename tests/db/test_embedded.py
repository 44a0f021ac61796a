"""The embedded server: closed to others, crash-safe, and gone when its owner is."""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.config import PROJECT_ROOT, Settings
from app.db import migrate
from app.db.domains import create_domain, load_gallery
from app.db.embedded import EmbeddedPostgres
from app.db.models import FaceEmbedding, Person
from app.db.provision import connect_as_superuser
from app.db.sandbox import SYSTEM_USER
from app.db.server_files import DATABASE, ServerFiles, embedded_url, install_folders
from app.db.server_process import ServerProcess, server_pids
from app.db.session import Database
from app.db.templates import insert_templates
from app.errors import DatabaseError, DatabaseUnavailable
from app.tenancy import carried
from tests.db_server import random_units, storage_in, template
from tests.prepared import put_cluster

root_only = pytest.mark.skipif(os.getuid() != 0, reason="needs root")

StartServer = Callable[[Settings], ServerProcess]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers, and stops them after the test."""
    started: list[ServerProcess] = []

    def start(settings: Settings) -> ServerProcess:
        started.append(EmbeddedPostgres(settings).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> bool:
    until_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.02)
    return condition()


def with_data(storage: Path) -> Settings:
    """Settings of an installation that has been started before."""
    storage.mkdir(mode=0o711)  # the database's own user has to pass through
    put_cluster(storage)
    return storage_in(storage)


def ping(settings: Settings) -> None:
    database = Database(settings)
    database.ping()
    database.close()


def test_the_servers_log_tells_of_an_error_without_the_values_in_its_statement(server_settings: Settings) -> None:
    database = Database(server_settings)
    told = ServerFiles.of(server_settings).log
    before = told.stat().st_size
    with pytest.raises(DBAPIError), database.transaction() as session:
        session.execute(text("SELECT 'Nebuchadnezzar' FROM no_such_table"))
    database.close()
    assert wait_until(lambda: b"no_such_table" in told.read_bytes()[before:])
    assert b"Nebuchadnezzar" not in told.read_bytes()[before:]


def test_only_its_owner_can_enter_data_socket_and_keys(server_settings: Settings) -> None:
    files = ServerFiles.of(server_settings)
    assert mode(files.data) == 0o700
    assert mode(files.socket) == 0o700
    assert mode(files.run) & 0o007 == 0
    assert [mode(path) for path in (files.superuser_key, files.role_key, files.lock, files.log)] == [0o600] * 4
    assert not list(files.storage.glob("postgres.new-*"))


@root_only
@pytest.mark.parametrize("place", ["private folder", "open folder"])
def test_another_local_user_cannot_reach_the_socket(
    place: str, tmp_path: Path, open_folder: Path, start_server: StartServer
) -> None:
    settings = storage_in((tmp_path if place == "private folder" else open_folder) / "storage")
    start_server(settings)
    path = ServerFiles.of(settings).socket / ".s.PGSQL.5432"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "/usr/bin/env", "python3"]
    refused = subprocess.run([*nobody, "-c", connect], cwd="/", capture_output=True, text=True)
    assert "PermissionError" in refused.stderr


@pytest.mark.parametrize("role", ["postgres", "facedex"])
def test_a_password_is_needed_by_every_role(server_settings: Settings, role: str) -> None:
    folder = str(ServerFiles.of(server_settings).socket)
    for password in ("", "guess"):
        with pytest.raises(psycopg.OperationalError, match=r"no password supplied|authentication failed"):
            psycopg.connect(host=folder, user=role, dbname="postgres", password=password)


def test_our_role_is_no_superuser_and_the_network_is_not_listened_to(server_settings: Settings) -> None:
    database = Database(server_settings)
    with database.transaction() as session:
        assert session.scalar(text("SELECT current_setting('is_superuser')")) == "off"
        assert session.scalar(text("SELECT current_setting('listen_addresses')")) == ""
        assert session.scalar(text("SELECT current_setting('data_checksums')")) == "on"
        assert session.scalar(text("SELECT current_setting('server_encoding')")) == "UTF8"
    database.close()


def test_no_password_in_arguments_environment_or_log(tmp_path: Path, start_server: StartServer) -> None:
    settings = storage_in(tmp_path / "storage")
    server = start_server(settings)
    files = ServerFiles.of(settings)
    shown = []
    for path in [Path(f"/proc/{pid}/{what}") for pid in server_pids(files.data) for what in ("cmdline", "environ")]:
        with suppress(FileNotFoundError, ProcessLookupError):  # a worker of the server's that has ended since
            shown.append(path.read_bytes())
    assert server.pid in server_pids(files.data)
    for key in (files.superuser_key, files.role_key):
        password = key.read_text().strip().encode()
        assert len(password) >= 32
        assert len(shown) >= 2
        assert all(password not in text for text in [*shown, files.log.read_bytes()])


@root_only
@pytest.mark.parametrize("place", ["private folder", "open folder"])
def test_as_root_the_server_has_a_user_of_its_own_and_no_parents_permissions_change(
    place: str, tmp_path: Path, open_folder: Path, start_server: StartServer
) -> None:
    parent = (tmp_path if place == "private folder" else open_folder) / "home"
    parent.mkdir()
    parent.chmod(0o700 if place == "private folder" else 0o755)
    before = [(mode(folder), folder.stat().st_uid) for folder in (parent, *parent.parents)]
    settings = storage_in(parent / "storage")
    server = start_server(settings)
    assert [(mode(folder), folder.stat().st_uid) for folder in (parent, *parent.parents)] == before
    account = pwd.getpwnam(SYSTEM_USER)
    assert account.pw_shell.endswith("nologin")
    assert Path(f"/proc/{server.pid}").stat().st_uid == account.pw_uid
    status = Path(f"/proc/{server.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    ping(settings)


@root_only
def test_root_that_may_not_mount_is_told_what_to_do(tmp_path: Path) -> None:
    program = prepare_program(storage_in(tmp_path / "storage"))
    container = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]
    refused = subprocess.run(
        [*container, sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "chmod o+x" in refused.stderr
    assert "VECTOR_DB_URL" in refused.stderr
    assert str(tmp_path) not in refused.stderr.splitlines()[-1]


@root_only
def test_root_that_may_not_mount_can_use_an_open_folder(open_folder: Path) -> None:
    if not reachable_by_others(install_folders()[0]):
        pytest.skip("the checkout itself lies below a private folder")
    program = prepare_program(storage_in(open_folder / "storage"), then=".start().stop()")
    container = ["setpriv", "--bounding-set=-sys_admin,-sys_ptrace", "--inh-caps=-all", "--"]
    subprocess.run([*container, sys.executable, "-c", program], cwd=PROJECT_ROOT, check=True)
    assert "database system is shut down" in ServerFiles.of(storage_in(open_folder / "storage")).log.read_text()


def test_a_second_start_on_the_same_data_is_refused(server_settings: Settings) -> None:
    for action in (EmbeddedPostgres(server_settings).start, EmbeddedPostgres(server_settings).prepare):
        with pytest.raises(DatabaseUnavailable, match="runs already"):
            action()
    ping(server_settings)


def test_two_installations_run_side_by_side(
    server_settings: Settings, tmp_path: Path, start_server: StartServer
) -> None:
    other = storage_in(tmp_path / "other")  # with data of its own
    start_server(other)
    databases = Database(server_settings), Database(other)
    folders = []
    for database in databases:
        with database.transaction() as session:
            folders.append(session.scalar(text("SELECT system_identifier FROM pg_control_system()")))
        database.close()
    assert folders[0] != folders[1]


def test_a_long_storage_path_works(tmp_path: Path, start_server: StartServer) -> None:
    settings = storage_in(tmp_path / ("long-" * 30) / "storage")
    assert not settings.run_dir.is_relative_to(settings.storage_dir)
    try:
        server = start_server(settings)
        ping(settings)
        server.stop()
    finally:
        shutil.rmtree(settings.run_dir)


def test_stopping_leaves_no_process_and_no_socket(tmp_path: Path, start_server: StartServer) -> None:
    settings = with_data(tmp_path / "storage")
    server = start_server(settings)
    files = ServerFiles.of(settings)
    pids = server_pids(files.data)
    assert server.pid in pids
    client = psycopg.connect(embedded_url(settings).set(drivername="postgresql").render_as_string(hide_password=False))
    server.stop()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not list(files.socket.iterdir())
    assert "database system is shut down" in files.log.read_text()
    client.close()


def test_ctrl_c_in_the_terminal_does_not_reach_it(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server(with_data(tmp_path / "storage"))
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_it_shuts_down_cleanly_when_its_owner_is_killed(tmp_path: Path, start_server: StartServer) -> None:
    settings = with_data(tmp_path / "storage")
    owner = subprocess.Popen(
        [sys.executable, "-c", prepare_program(settings, then=".start(); print('ready', flush=True); input()")],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        owner.kill()
    files = ServerFiles.of(settings)
    assert wait_until(lambda: not server_pids(files.data))
    assert "database system is shut down" in files.log.read_text()
    start_server(settings)  # the lock went with its owner


def test_nothing_acknowledged_is_lost_when_the_postmaster_is_killed(tmp_path: Path, start_server: StartServer) -> None:
    settings = with_data(tmp_path / "storage")
    server = start_server(settings)
    database = Database(settings)
    migrate.upgrade(database.engine)
    with database.transaction() as session:
        domain_id = create_domain(session, "people", model="m", contract="c", dimension=16).id
    acknowledged: list[set[str]] = [set() for _ in range(3)]
    writers = [
        threading.Thread(target=carried(write_until_it_fails), args=(database, domain_id, number, acknowledged[number]))
        for number in range(3)
    ]
    for writer in writers:
        writer.start()
    assert wait_until(lambda: all(len(done) >= 20 for done in acknowledged))
    os.kill(server.pid, signal.SIGKILL)
    for writer in writers:
        writer.join()
    assert wait_until(server.exited)
    server.stop(0)

    start_server(settings)
    with database.transaction() as session:
        stored = session.execute(
            select(Person.label, FaceEmbedding.id).join_from(
                Person, FaceEmbedding, FaceEmbedding.person_id == Person.id, isouter=True
            )
        ).all()
        assert load_gallery(session, "people").template_count == len(stored)
    database.close()
    assert set().union(*acknowledged) <= {label for label, _ in stored}
    assert all(face is not None for _, face in stored)  # no half-written person either


def write_until_it_fails(database: Database, domain_id: int, writer: int, acknowledged: set[str]) -> None:
    vectors = random_units(10_000, 16, seed=writer)
    for number, vector in enumerate(vectors):
        label = f"{writer}-{number}"
        try:
            with database.transaction() as session:
                person = Person(domain_id=domain_id, label=label, display_name=label)
                session.add(person)
                session.flush()
                insert_templates(session, domain_id, [template(person.id, vector)])
        except DatabaseError:
            return
        acknowledged.add(label)


def test_a_backend_left_over_in_the_middle_of_a_statement_does_not_prevent_a_start(
    tmp_path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.embedded._ORPHANS_END_WITHIN_S", 0.5)
    monkeypatch.setattr("app.db.server_process._EACH_SIGNAL_S", 0.5)
    settings = with_data(tmp_path / "storage")
    server = start_server(settings)
    with connect_as_superuser(ServerFiles.of(settings)) as client:
        pid = client.info.backend_pid
        # Stopped, it neither notices the death of the postmaster nor reacts to signals that can be caught.
        os.kill(pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGKILL)
        assert wait_until(server.exited)
        assert Path(f"/proc/{pid}").exists()
        server._lock.close()  # as when the owner is killed: the lock goes, the backend stays
        start_server(settings)
        assert pid not in server_pids(ServerFiles.of(settings).data)
    ping(settings)


def test_a_process_id_in_use_again_does_not_prevent_a_start(tmp_path: Path, start_server: StartServer) -> None:
    settings = with_data(tmp_path / "storage")
    server = start_server(settings)
    pid_file = ServerFiles.of(settings).data / "postmaster.pid"
    traces = pid_file.read_text()
    os.kill(server.pid, signal.SIGKILL)
    assert wait_until(server.exited)
    server.stop(0)
    with subprocess.Popen(["sleep", "60"]) as other:
        pid_file.write_text(traces.replace(str(server.pid), str(other.pid), 1))
        start_server(settings)
        other.kill()


@pytest.mark.parametrize("reached", ["", "data", "data/PG_VERSION", "data/global/pg_control", "data/base/4"])
def test_initialising_is_done_again_when_it_was_killed(tmp_path: Path, reached: str, start_server: StartServer) -> None:
    settings = storage_in(tmp_path / "storage")
    preparing = subprocess.Popen([sys.executable, "-c", prepare_program(settings)], cwd=PROJECT_ROOT)
    with preparing:
        assert wait_until(lambda: bool(list(settings.storage_dir.glob(f"postgres.new-*/{reached}"))))
        preparing.kill()
    files = ServerFiles.of(settings)
    assert not files.data.exists()
    start_server(settings)
    assert not list(settings.storage_dir.glob("postgres.new-*"))
    ping(settings)


def test_preparing_twice_keeps_the_data(tmp_path: Path) -> None:
    settings = storage_in(tmp_path / "storage")
    EmbeddedPostgres(settings).prepare()
    files = ServerFiles.of(settings)
    before = (files.data.stat().st_ino, files.superuser_key.read_text())
    EmbeddedPostgres(settings).prepare()
    assert (files.data.stat().st_ino, files.superuser_key.read_text()) == before


def test_a_lost_role_key_is_made_anew(tmp_path: Path, start_server: StartServer) -> None:
    settings = with_data(tmp_path / "storage")
    start_server(settings).stop()
    ServerFiles.of(settings).role_key.unlink()
    with pytest.raises(DatabaseUnavailable, match="not set up"):
        embedded_url(settings)
    start_server(settings)
    ping(settings)


def test_an_older_extension_is_brought_to_the_programs_version(tmp_path: Path, start_server: StartServer) -> None:
    settings = with_data(tmp_path / "storage")
    server = start_server(settings)
    version = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    with connect_as_superuser(ServerFiles.of(settings), DATABASE) as connection:
        before = connection.execute(version).fetchone()
        connection.execute("UPDATE pg_extension SET extversion = '0.8.4' WHERE extname = 'vector'")
    server.stop()
    start_server(settings)
    with connect_as_superuser(ServerFiles.of(settings), DATABASE) as connection:
        assert connection.execute(version).fetchone() == before != ("0.8.4",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: (files.data / "PG_VERSION").write_text("15\n"), "dump and restore"),
        (lambda files: (files.data / "PG_VERSION").unlink(), "something else than a database"),
        (lambda files: files.superuser_key.unlink(), "postgres-superuser.key"),
        (lambda files: (files.data / "global" / "pg_control").unlink(), "did not start"),
    ],
    ids=["another version", "no cluster", "no key", "damaged"],
)
def test_data_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[ServerFiles], object], message: str
) -> None:
    settings = with_data(tmp_path / "storage")
    EmbeddedPostgres(settings).prepare()
    damage(ServerFiles.of(settings))
    with pytest.raises(DatabaseUnavailable, match=message) as refused:
        EmbeddedPostgres(settings).start()
    assert str(tmp_path) not in str(refused.value)


def prepare_program(settings: Settings, then: str = ".prepare()") -> str:
    """A program that does with the server of that storage what `then` says."""
    return (
        "from pathlib import Path\n"
        "from app.config import parse_settings\n"
        "from app.db.embedded import EmbeddedPostgres\n"
        f"settings = parse_settings(storage_dir=Path({str(settings.storage_dir)!r}), vector_db_url=None)\n"
        f"EmbeddedPostgres(settings){then}"
    )


def reachable_by_others(folder: Path) -> bool:
    return all(mode(parent) & 0o001 for parent in (folder, *folder.parents))
