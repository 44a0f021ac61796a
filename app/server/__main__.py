"""`scripts/serve` ends here: options, preparation, then the supervisor."""

import signal

# Until `main` takes it, Ctrl-C just ends: importing takes half a second, and nothing has been started.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import fcntl
import gc
import os
import shlex
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from app.config import (
    ENV_FILE,
    PROJECT_ROOT,
    SUPERVISED,
    Settings,
    SettingsError,
    load_settings,
    publish_running,
    reload_settings,
    serve_lock,
)
from app.db.server_files import require_own_folder
from app.db.session import driver_reason
from app.embedder.client import EmbedderClient
from app.errors import DatabaseUnavailable, EmbedderError, FacedexError, ModelError
from app.keys.admin_key import create_admin_key
from app.logs import configure_logging
from app.server.parts import (
    CannotStart,
    finish_erasures,
    has_datasets,
    migrate_later,
    prepare_datasets,
    say,
    start_database,
    start_jobs,
    start_pool_and_web,
    warm_database,
)
from app.server.readiness import ask_ready
from app.server.reload import reload
from app.server.supervisor import Stopped, Supervisor
from app.vision.packs import DEFAULT_PACK, PackStore

_READY_WITHIN_S: Final = 120.0
# A part that dies so often before the service was ever ready will not get better.
_DEATHS_AT_START: Final = 3
_PYTHON: Final = sys.executable


def main() -> int:
    """Run the service; the exit code."""
    gc.freeze()  # the program stays: the collector need not look at it again, least of all at the end
    os.environ.pop(SUPERVISED, None)  # started from within another service, this one still has settings of its own
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
        say(f"cannot start: {error}{_cause(error)}")
        return 1
    finally:
        supervisor.stop()
    say("stopped")
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
    parser.add_argument("--env-file", metavar="FILE", type=Path, help="file of settings (ENV_FILE; default .env)")
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
        ENV_FILE: arguments.env_file and arguments.env_file.resolve(),
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
        try:
            yield
        finally:
            pid_file(settings).unlink(missing_ok=True)


def _make_and_lock(settings: Settings) -> IO[bytes]:
    if not settings.storage_dir.exists():  # one that exists has permissions of the operator's choice
        settings.storage_dir.mkdir(parents=True)
        if os.getuid() == 0:  # the database's own user has to pass through to its folder, and can list nothing
            settings.storage_dir.chmod(0o711)
    require_own_folder(settings.run_dir)
    lock = serve_lock(settings).open("ab")
    _lock(lock)
    pid_file(settings).write_text(f"{os.getpid()}\n")
    for folder in (settings.logs_dir, settings.models_dir, settings.pkl_dir):
        folder.mkdir(parents=True, exist_ok=True)
    if create_admin_key(settings.admin_key_file):
        say(f"created the admin API key in {settings.admin_key_file}")
    return lock


def pid_file(settings: Settings) -> Path:
    """Says whom to signal while the service runs."""
    return settings.run_dir / "serve.pid"


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
    settings = reload_settings()
    _check_extra_models(settings)
    publish_running(settings)
    return settings


def _run(settings: Settings, supervisor: Supervisor) -> None:
    started_s = time.monotonic()
    _check_port(settings)
    has_database = settings.vector_db_enabled and _has_database(settings, supervisor)
    prepare_datasets(settings, supervisor, awaited=not has_database)
    start_pool_and_web(settings, supervisor)
    start_jobs(settings, supervisor)
    _wait_until_ready(settings, supervisor)
    if has_database:
        finish_erasures(settings, supervisor)
    _announce(settings, time.monotonic() - started_s)
    supervisor.run(lambda: reload(supervisor))


def _has_database(settings: Settings, supervisor: Supervisor) -> bool:
    """Whether the database is there; one elsewhere may be away, as long as there are datasets to answer from."""
    try:
        start_database(settings, supervisor)
    except DatabaseUnavailable as error:
        if settings.vector_db_url is None or not has_datasets(settings):
            raise
        say(f"{error}{_cause(error)} Recognition is answered from datasets until it is back.")
        migrate_later(settings, supervisor)
        return False
    warm_database(settings, supervisor)
    return True


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
        say("preparing the model pack dlib (once)")
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
    say(f"model pack {pack.manifest.name}, licence: {pack.manifest.licence.name}")
    return pack.manifest.name


def _check_extra_models(settings: Settings) -> None:
    if settings.embedder_url is not None:
        return  # that pool has settings of its own
    store = PackStore(settings.models_dir)
    for name in settings.embedder_extra_models:
        try:
            store.get(name)
        except ModelError as error:
            raise CannotStart(f"EMBEDDER_EXTRA_MODELS: {error}.") from error


def _wait_until_ready(settings: Settings, supervisor: Supervisor) -> None:
    until_s = time.monotonic() + _READY_WITHIN_S
    say("starting the worker pool and the web")
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
    body = _WITH_DATABASE if settings.vector_db_enabled else _WITH_DATASETS
    say(f"ready after {took_s:.1f} s")
    say(f"worker pool: {_workers(settings)}")
    key, flask = shlex.quote(str(settings.admin_key_file)), _flask_command(settings)
    print((_HEAD + body + _FOOT).format(url=url, key=key, flask=flask, pkl=settings.pkl_dir))  # noqa: T201
    sys.stdout.flush()


def _workers(settings: Settings) -> str:
    """How many workers have which model; one that is not the default may still be loading."""
    try:
        workers = EmbedderClient(settings.embedder_address).status().workers
    except EmbedderError as error:  # it was there a moment ago
        return str(error)
    counted = Counter((worker.model, worker.is_loaded) for worker in workers)
    return ", ".join(
        f"{count} x {model}{'' if is_loaded else ' (not loaded yet)'}" for (model, is_loaded), count in counted.items()
    )


_HEAD: Final = """
Facedex is ready on {url}

  key         KEY="$(cat {key})"
"""
_WITH_DATABASE: Final = """\
  domain      curl -H "x-api-key: $KEY" -H "Content-Type: application/json" -d '{{"name": "people"}}' {url}/v1/domains
  enrol       {flask} enrol people FOLDER        # one folder of photos per person
  or          curl -H "x-api-key: $KEY" -F file=@alice.jpg {url}/v1/domains/people/persons/Alice/faces
"""
_WITH_DATASETS: Final = """\
  domain      {pkl}/people/        # a DeepFace dataset in it; there is no database (VECTOR_DB_ENABLED=false)
"""
_FOOT: Final = """\
  recognise   curl -H "x-api-key: $KEY" -F domain=people -F file=@photo.jpg {url}/recognize
  API         {url}/docs/swagger  (the password is the key)
  stop        Ctrl-C
"""


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


if __name__ == "__main__":
    sys.exit(main())
