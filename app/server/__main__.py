"""`scripts/serve` ends here: options, preparation, then the supervisor."""

import signal

# Until `main` takes it, Ctrl-C just ends: importing takes half a second, and nothing has been started.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import fcntl
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from sqlalchemy import create_engine

from app.api.auth import create_admin_key
from app.config import (
    PROJECT_ROOT,
    SUPERVISED,
    Settings,
    SettingsError,
    load_settings,
    parse_settings,
    publish_running,
    serve_lock,
)
from app.db.embedded import EmbeddedPostgres
from app.db.migrate import upgrade
from app.db.server_files import require_own_folder
from app.db.session import database_url, driver_reason
from app.errors import FacedexError
from app.logs import configure_logging
from app.server.children import Child
from app.server.readiness import ask_ready
from app.server.supervisor import Stopped, Supervisor
from app.vision.packs import DEFAULT_PACK, PackStore

_READY_WITHIN_S: Final = 120.0
# A part that dies so often before the service was ever ready will not get better.
_DEATHS_AT_START: Final = 3
_PYTHON: Final = sys.executable


class CannotStart(Exception):
    """The service cannot start; the message says why and what to do."""


def main() -> int:
    """Run the service; the exit code."""
    _set_environment(_arguments())
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"facedex: wrong settings: {error}", file=sys.stderr)  # noqa: T201
        return 2
    os.environ["STORAGE_DIR"] = str(settings.storage_dir)
    os.umask(0o077)
    supervisor = Supervisor()
    supervisor.handle_signals()
    try:
        with _held_storage(settings):
            configure_logging(settings, settings.logs_dir / "serve.log")
            _run(_with_model(settings), supervisor)
    except Stopped:
        pass
    except (CannotStart, FacedexError) as error:
        _say(f"cannot start: {error}{_cause(error)}")
        return 1
    finally:
        supervisor.stop()
    _say("stopped")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/serve",
        description="Run Facedex: database, worker pool and web. Ctrl-C stops everything.",
        epilog="Every other setting is an environment variable or a line in .env; .env.example lists them.",
    )
    parser.add_argument("--host", help="address to listen on (HOST; default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (PORT; default 8000)")
    parser.add_argument(
        "--storage",
        metavar="DIR",
        type=_folder,
        help="folder for all data, from the current folder (STORAGE_DIR, from the checkout; default storage)",
    )
    parser.add_argument(
        "--workers", type=int, help="worker processes of the pool (EMBEDDER_WORKERS; default: the cores)"
    )
    return parser.parse_args()


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("needs the name of a folder")
    return Path(text).expanduser().resolve()


def _set_environment(arguments: argparse.Namespace) -> None:
    """Options are settings: put them where the children look too."""
    given = {
        "HOST": arguments.host,
        "PORT": arguments.port,
        "STORAGE_DIR": arguments.storage,
        "EMBEDDER_WORKERS": arguments.workers,
    }
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})


@contextmanager
def _held_storage(settings: Settings) -> Generator[None]:
    """Make the storage folder, and hold it: a second service on the same data would fight over it."""
    try:
        lock = _make_and_lock(settings)
    except OSError as error:
        raise CannotStart(f"{error.filename} cannot be used: {error.strerror}.") from error
    with lock:
        yield


def _make_and_lock(settings: Settings) -> IO[bytes]:
    if not settings.storage_dir.exists():  # one that exists has permissions of the operator's choice
        settings.storage_dir.mkdir(parents=True)
        if os.getuid() == 0:  # the database's own user has to pass through to its folder, and can list nothing
            settings.storage_dir.chmod(0o711)
    require_own_folder(settings.run_dir)
    lock = serve_lock(settings).open("ab")
    _lock(lock)
    for folder in (settings.logs_dir, settings.models_dir):
        folder.mkdir(parents=True, exist_ok=True)
    if create_admin_key(settings.admin_key_file):
        _say(f"created the admin API key in {settings.admin_key_file}")
    return lock


def _lock(file: IO[bytes]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotStart(
            "another Facedex runs with this storage folder; use --storage DIR for a second one."
        ) from None


def _with_model(settings: Settings) -> Settings:
    """The settings with the pack that is active now: one chosen later counts from the next start on, for all processes."""
    os.environ["FACE_MODEL"] = _prepare_model(settings)
    os.environ[SUPERVISED] = "1"
    settings = parse_settings()
    publish_running(settings)
    return settings


def _run(settings: Settings, supervisor: Supervisor) -> None:
    started_s = time.monotonic()
    _check_port(settings)
    if settings.vector_db_url is None:
        _start_database(settings, supervisor)
    supervisor.check_stopped()
    _migrate(settings)
    _start_pool_and_web(settings, supervisor)
    _wait_until_ready(settings, supervisor)
    _announce(settings, time.monotonic() - started_s)
    supervisor.run()


def _check_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise CannotStart(f"{settings.host}:{settings.port}: {error.strerror}; use --port or --host.") from error


def _prepare_model(settings: Settings) -> str:
    store = PackStore(settings.models_dir)
    if DEFAULT_PACK not in store.names():
        _say("preparing the model pack dlib (once)")
        done = subprocess.run(
            # -P: never from the caller's folder.
            [_PYTHON, "-P", "-m", "app.server.prepare_model"],
            cwd=PROJECT_ROOT,
            env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
            check=False,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the supervisor alone
        )
        if done.returncode != 0:
            raise CannotStart(f"the model pack dlib could not be prepared: {done.stderr.strip() or done.returncode}")
    pack = store.active(settings.face_model)
    _say(f"model pack {pack.manifest.name}, licence: {pack.manifest.licence.name}")
    return pack.manifest.name


def _start_database(settings: Settings, supervisor: Supervisor) -> None:
    server = EmbeddedPostgres(settings)
    _say("starting the database")
    server.prepare()
    supervisor.start("database", server.start, stop_timeout_s=30)


def _migrate(settings: Settings) -> None:
    engine = create_engine(database_url(settings), hide_parameters=True, connect_args={"connect_timeout": 10})
    try:
        upgrade(engine)
    finally:
        engine.dispose()


def _start_pool_and_web(settings: Settings, supervisor: Supervisor) -> None:
    env = os.environ | {
        # One core, one worker, one thread: libraries that start threads of their own only get in each other's way.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }

    def gunicorn(name: str, config: str, log_name: str) -> Child:
        argv = [_PYTHON, "-m", "gunicorn", "--config", str(PROJECT_ROOT / config)]
        return Child.spawn(name, argv, env=env, cwd=PROJECT_ROOT, log_file=settings.logs_dir / log_name)

    stop_timeout_s = settings.request_deadline_s + 10
    if settings.embedder_url is None:
        supervisor.start(
            "worker pool",
            lambda: gunicorn("worker pool", "app/embedder/gunicorn.conf.py", "embedder.log"),
            stop_timeout_s=stop_timeout_s,
        )
    supervisor.start(
        "web", lambda: gunicorn("web", "gunicorn.conf.py", "gunicorn-error.log"), stop_timeout_s=stop_timeout_s
    )


def _wait_until_ready(settings: Settings, supervisor: Supervisor) -> None:
    until_s = time.monotonic() + _READY_WITHIN_S
    _say("starting the worker pool and the web")
    deaths: list[str] = []
    while not (answer := ask_ready(settings)).ready:
        deaths += supervisor.replace_dead()
        if len(deaths) >= _DEATHS_AT_START or time.monotonic() > until_s:
            answer.reasons.extend(f"{name} ends at once" for name in sorted(set(deaths)))
            reasons = "; ".join(answer.reasons) or "no answer"
            raise CannotStart(f"not ready: {reasons}. The logs are in {settings.logs_dir}.")
        supervisor.sleep(0.2)


def _announce(settings: Settings, took_s: float) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    _say(f"ready after {took_s:.1f} s")
    print(  # noqa: T201
        f"""
Facedex is ready on {url}

  key         KEY="$(cat {shlex.quote(str(settings.admin_key_file))})"
  domain      curl -H "x-api-key: $KEY" -H "Content-Type: application/json" -d '{{"name": "people"}}' {url}/v1/domains
  enrol       {_flask_command(settings)} enrol people FOLDER        # one folder of photos per person
  or          curl -H "x-api-key: $KEY" -F file=@alice.jpg {url}/v1/domains/people/persons/Alice/faces
  recognise   curl -H "x-api-key: $KEY" -F domain=people -F file=@photo.jpg {url}/recognize
  API         {url}/docs/swagger  (the password is the key)
  stop        Ctrl-C
""",
        flush=True,
    )


def _flask_command(settings: Settings) -> str:
    """How to type `flask` where the service was started."""
    words = []
    if settings.storage_dir != PROJECT_ROOT / "storage":
        words.append(f"STORAGE_DIR={shlex.quote(str(settings.storage_dir))}")
    if Path.cwd() == PROJECT_ROOT:
        return " ".join([*words, ".venv/bin/flask --app wsgi"])
    return " ".join(
        [*words, shlex.quote(f"{PROJECT_ROOT}/.venv/bin/flask"), "--app", shlex.quote(f"{PROJECT_ROOT}/wsgi.py")]
    )


def _cause(error: Exception) -> str:
    """The driver's own reason, for the operator; it names hosts and roles, never a password."""
    reason = driver_reason(error)
    return f" ({reason})" if reason else ""


def _say(message: str) -> None:
    print(f"facedex: {message}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
