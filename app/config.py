"""Settings: the only reader of the environment.

Values come from the process environment, then from the file `.env` beside `wsgi.py`, or the one that the environment
variable ENV_FILE names. A key in it that is not a setting, a line or a value that does not parse, is an error that names it.
Beside a running service, what that service was started with comes last, so that commands find the same data. The service's own
processes have what its supervisor last accepted, and never read `.env`: an edit counts from a reload on, or not at all.
"""

import fcntl
import hashlib
import json
import os
import unicodedata
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parent.parent

# The environment variable that names another file than `.env`; an option of `scripts/serve` sets it.
ENV_FILE: Final = "ENV_FILE"
# Set in the processes that a supervisor starts: they have the settings that it accepted last.
SUPERVISED: Final = "FACEDEX_SUPERVISED"

# A Unix socket's path must fit in 108 bytes (sun_path, unix(7)), its final NUL and PostgreSQL's file name included.
_SOCKET_DIR_MAX_BYTES = 80
_RUNNING_FILE: Final = "settings.json"
# By measurement, so many numbers of a gallery are scanned in one to four milliseconds. An index finds the nearest in half of
# one; but where it finds nobody, a scan has to confirm it.
_EXACT_MAX_NUMBERS: Final = 1_280_000

_Workers = Annotated[int, Field(ge=1, le=256)]


# Threads of each web process that nobody's waiting for the pool takes: they say that it is busy, and answer what needs no pool.
_SPARE_THREADS: Final = 8
_MAX_THREADS: Final = 512


def _threads_for(given: dict[str, Any]) -> int:
    """As many threads as jobs can be at workers and in queues, and some more: else requests would wait unseen before the web.

    Each process has so many, since chance may give all of them to one.
    """
    extra = given["embedder_extra_models"]
    jobs = given["embedder_workers"] + sum(extra.values()) + (1 + len(extra)) * given["embedder_queue"]
    return min(int(jobs) + _SPARE_THREADS, _MAX_THREADS)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


class SettingsError(Exception):
    """A setting is unknown or malformed; the message names each, and never holds a secret."""


class Settings(BaseSettings):
    """Everything that an operator can set. `.env.example` explains each field for them."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_ignore_empty=True)

    storage_dir: Path = PROJECT_ROOT / "storage"
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    vector_db_enabled: bool = True
    vector_db_url: SecretStr | None = None
    db_pool_size: int = Field(8, ge=1, le=200)
    db_pool_timeout_s: float = Field(5.0, gt=0)
    db_connect_timeout_s: int = Field(10, ge=1)
    db_statement_timeout_s: float = Field(30.0, gt=0)
    search_exact_max_rows: int | None = Field(None, ge=0)
    search_ef: int = Field(40, ge=10, le=1000)
    pkl_datasets: Annotated[dict[str, Path], NoDecode] = Field(default_factory=dict)
    pkl_allow_numpy: bool = False

    face_model: str | None = None
    max_image_pixels: int = Field(64_000_000, ge=1)
    max_upload_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    max_request_files: int = Field(100, ge=1, le=1000)
    max_request_bytes: int = Field(256 * 1024 * 1024, ge=1024)
    request_deadline_s: float = Field(10.0, gt=0, le=300)
    enrol_min_face_px: int = Field(50, ge=1)
    store_images: bool = False
    face_cache_ttl_s: float = Field(600.0, ge=0, le=86_400)
    face_cache_entries: int = Field(10_000, ge=1, le=1_000_000)

    embedder_url: str | None = None
    embedder_workers: _Workers = Field(default_factory=cores)
    embedder_extra_models: Annotated[dict[str, _Workers], NoDecode] = Field(default_factory=dict)
    embedder_queue: int = Field(32, ge=1, le=4096)
    embedder_queue_s: float = Field(1.0, gt=0, le=300)
    embedder_background_queue: int = Field(8, ge=1, le=4096)
    embedder_max_requests: int = Field(10_000, ge=0)
    embedder_recycle_mb: int = Field(1024, ge=0)
    embedder_memory_mb: int = Field(3072, ge=512)
    quarantine_s: float = Field(86_400.0, gt=0)

    jobs_workers: int = Field(2, ge=0, le=64)
    jobs_stalled_s: float = Field(15.0, ge=1, le=3600)
    jobs_max_attempts: int = Field(20, ge=1, le=1000)
    jobs_keep_s: float = Field(604_800.0, ge=60)
    max_import_files: int = Field(10_000, ge=1, le=100_000)
    max_import_bytes: int = Field(1024 * 1024 * 1024, ge=1024)
    face_max_frames_per_session: int = Field(120, ge=1, le=10_000)
    session_ttl_s: float = Field(300.0, ge=10, le=86_400)

    gallery_tombstones_keep_s: float = Field(2_592_000.0, ge=60)
    audit_retention_days: int = Field(365, ge=0, le=36_500)
    idempotency_keep_s: float = Field(86_400.0, ge=60)
    rate_limit_per_minute: int = Field(0, ge=0)
    auth_failures_per_minute: int = Field(60, ge=1)
    key_max_concurrent: int | None = Field(None, ge=1)
    key_snapshot_max_age_s: float = Field(86_400.0, gt=0)
    redis_url: SecretStr | None = None

    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ("127.0.0.1/32", "::1/128")
    session_max_streams: int = Field(100, ge=1, le=800)
    session_max_frame_bytes: int = Field(2 * 1024 * 1024, ge=1024, le=32 * 1024 * 1024)
    session_max_fps: float = Field(10.0, gt=0, le=1000)
    session_idle_s: float = Field(30.0, gt=0, le=3600)

    web_workers: int = Field(2, ge=1, le=64)
    web_threads: int = Field(default_factory=_threads_for, ge=1, le=_MAX_THREADS)

    @field_validator("storage_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Relative to the checkout, not to the caller's folder: every process must arrive at the same data.
        try:
            return (PROJECT_ROOT / value.expanduser()).resolve()
        except RuntimeError:
            raise ValueError("there is no such user's home") from None

    @field_validator("vector_db_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        try:
            _ = urlsplit(value.get_secret_value()).port
        except ValueError:  # its own message repeats a part of the URL
            raise ValueError("has no valid host and port") from None
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @field_validator("embedder_url")
    @classmethod
    def _embedder_scheme(cls, value: str | None) -> str | None:
        if value is None or value.startswith("unix:/"):
            return value
        parts = urlsplit(value)  # its port raises ValueError too
        if parts.scheme != "tcp" or not parts.hostname or not parts.port or parts.path not in ("", "/"):
            raise ValueError("must be unix:/path or tcp://host:port")
        return value

    @field_validator("embedder_extra_models", mode="before")
    @classmethod
    def _names_and_workers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        models: dict[str, int] = {}
        for entry in filter(None, map(str.strip, value.split(","))):
            name, equals, workers = (part.strip() for part in entry.partition("="))
            if not name or not (workers.isdecimal() or not equals):
                raise ValueError("must be names of model packs, each with a number of workers, e.g. buffalo_l=2,dlib")
            if name in models:
                raise ValueError("names a model pack twice")
            models[name] = int(workers or 1)
        return models

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = [entry.strip().lower() for entry in value.split(",") if entry.strip()]
        for origin in origins:
            parts = urlsplit(origin)  # its port raises ValueError too
            if (
                parts.scheme not in ("http", "https")
                or origin != f"{parts.scheme}://{parts.netloc}"
                or not parts.hostname
            ):
                raise ValueError("must be origins like https://shop.example.com or http://localhost:3000")
            _ = parts.port
        return tuple(origins)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _addresses(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return tuple(str(ip_network(entry.strip())) for entry in value.split(",") if entry.strip())
        except ValueError:
            raise ValueError("must be addresses or networks like 10.0.0.7 or 10.0.0.0/24") from None

    @field_validator("pkl_datasets", mode="before")
    @classmethod
    def _json_object(cls, value: object) -> object:
        # Not left to pydantic-settings, whose error would not be one of ours.
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            example = '{"slovenia": "/data/slovenia/representations_dlib.pkl"}'
            raise ValueError(f"must be a JSON object, e.g. {example}") from None

    @field_validator("pkl_datasets")
    @classmethod
    def _domains_and_paths(cls, value: dict[str, Path]) -> dict[str, Path]:
        # Names in the form that `app.names.clean_name` gives those of requests.
        named = {unicodedata.normalize("NFC", name).strip(): path for name, path in value.items()}
        if not all(named):
            raise ValueError("the name of a domain is empty")
        return {name: (PROJECT_ROOT / path.expanduser()).resolve() for name, path in named.items()}

    def exact_max_rows(self, dimension: int) -> int:
        """Up to so many templates of that dimension a gallery is scanned: SEARCH_EXACT_MAX_ROWS or, unless that is set, as many
        as are scanned in few milliseconds.
        """
        given = self.search_exact_max_rows
        return _EXACT_MAX_NUMBERS // dimension if given is None else given

    @property
    def models_dir(self) -> Path:
        """Installed model packs, one folder each."""
        return self.storage_dir / "models"

    @property
    def pkl_dir(self) -> Path:
        """DeepFace datasets, one folder a domain, and what was made from them."""
        return self.storage_dir / "pkl"

    @property
    def images_dir(self) -> Path:
        """Enrolled pictures, where STORE_IMAGES keeps them."""
        return self.storage_dir / "images"

    @property
    def audit_dir(self) -> Path:
        """Events that wait for the database, mode 700."""
        return self.storage_dir / "audit"

    @property
    def logs_dir(self) -> Path:
        """Log files."""
        return self.storage_dir / "logs"

    @property
    def admin_key_file(self) -> Path:
        """The admin API key, mode 600."""
        return self.storage_dir / "admin.key"

    @property
    def face_cache_key_file(self) -> Path:
        """What encrypts the extracted faces that are kept in Redis, mode 600."""
        return self.storage_dir / "face-cache.key"

    @property
    def pages_key_file(self) -> Path:
        """What encrypts the cookies of the pages' sessions, mode 600."""
        return self.storage_dir / "pages.key"

    @property
    def keys_snapshot_file(self) -> Path:
        """The keys as the database had them last, mode 600."""
        return self.storage_dir / "keys.snapshot"

    @property
    def keys_snapshot_key_file(self) -> Path:
        """What signs it, mode 600."""
        return self.storage_dir / "keys-snapshot.key"

    @property
    def run_dir(self) -> Path:
        """Sockets and other files that live as long as the processes do, mode 700.

        Under the storage folder, or, where that path is too long for a Unix socket, in /tmp under a name derived from it, so
        that every process of one installation arrives at the same place, whatever its user and TMPDIR are.
        """
        inside = self.storage_dir / "run"
        if len(os.fsencode(inside)) <= _SOCKET_DIR_MAX_BYTES:
            return inside
        digest = hashlib.sha256(os.fsencode(self.storage_dir)).hexdigest()[:12]
        return Path("/tmp") / f"facedex-{digest}"  # noqa: S108 -- whoever uses it checks whose it is

    @property
    def quarantine_file(self) -> Path:
        """Digests of the pictures that brought down workers."""
        return self.storage_dir / "quarantine.json"

    @property
    def embedder_address(self) -> str:
        """Where the worker pool listens: `unix:/path` or `tcp://host:port`."""
        return self.embedder_url or f"unix:{self.run_dir / 'embedder.sock'}"


# What `reload_settings` parsed, on its way into the cache of `load_settings`.
_reloaded: list[Settings] = []


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The process's settings, parsed once.

    Raises:
        SettingsError: names every unknown or malformed setting.
    """
    return _reloaded.pop() if _reloaded else parse_settings()


def reload_settings() -> Settings:
    """Parse anew what `load_settings` answers from now on in this process: `.env` may have changed, the environment cannot.

    A supervisor holds the service's lock: what was published there is its own, and is not what it reads.

    Raises:
        SettingsError: as `load_settings`; it goes on answering the settings from before.
    """
    _reloaded[:] = [_accepted({}) if os.environ.get(SUPERVISED) else _from_file({})]
    load_settings.cache_clear()
    return load_settings()


def set_in_environment(name: str) -> bool:
    """Whether a setting comes from the process's environment, where no edit of `.env` reaches it."""
    return bool(os.environ.get(name))


def env_file() -> Path:
    """The file of settings: ENV_FILE, or `.env` in the checkout, which may be missing.

    Raises:
        SettingsError: ENV_FILE names nothing.
    """
    named = os.environ.get(ENV_FILE)
    if not named:
        return PROJECT_ROOT / ".env"
    if not (path := Path(named)).exists():
        raise SettingsError("ENV_FILE: there is no such file")
    return path


def parse_settings(**overrides: Any) -> Settings:
    """Parse the environment anew; `overrides` win over it.

    Raises:
        SettingsError: names every unknown or malformed setting.
    """
    if os.environ.get(SUPERVISED):
        return _accepted(overrides)
    settings = _from_file(overrides)
    running = _read_running(settings)
    missing = {name: value for name, value in running.items() if name not in settings.model_fields_set}
    return _from_file(missing | overrides) if missing else settings


def publish_running(settings: Settings) -> None:
    """Leave beside the service the settings that it accepted, mode 600: for its processes, and for commands while it runs.

    In one step: a process that starts at this moment reads the old ones or the new ones.
    """
    values = settings.model_dump(mode="json", include=settings.model_fields_set - {"storage_dir"})
    for name in ("vector_db_url", "redis_url"):
        if (secret := getattr(settings, name)) is not None:
            values[name] = secret.get_secret_value()
    written = settings.run_dir / f"{_RUNNING_FILE}.new"
    written.unlink(missing_ok=True)
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        json.dump(values, stream)
    written.replace(settings.run_dir / _RUNNING_FILE)


def serve_lock(settings: Settings) -> Path:
    """The file that a running service of this storage folder keeps locked."""
    return settings.run_dir / "serve.lock"


def _from_file(overrides: dict[str, Any]) -> Settings:
    file = env_file()
    _refuse_broken_lines(file)
    return _parse(file, overrides)


def _accepted(overrides: dict[str, Any]) -> Settings:
    """What the supervisor published last; only where it lies comes from the environment."""
    path = _parse(None, overrides).run_dir / _RUNNING_FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{_RUNNING_FILE} in the service's folder cannot be read: {type(error).__name__}") from None
    return _parse(None, values | overrides)


def _parse(file: Path | None, overrides: dict[str, Any]) -> Settings:
    try:
        return Settings(_env_file=file, **overrides)
    except ValidationError as error:
        # The rejected value itself is left out: it may be a secret.
        lines = [
            f"{'.'.join(str(part) for part in item['loc']).upper() or 'settings'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
            if item["type"] != "default_factory_not_called"  # follows from another one
        ]
        raise SettingsError("; ".join(lines)) from None


def _refuse_broken_lines(file: Path) -> None:
    """python-dotenv passes over what it cannot read; a setting would be missing without a word."""
    try:
        with file.open(encoding="utf-8") as stream:
            broken = [
                binding.original.line
                for binding in parse_stream(stream)
                if binding.error or (binding.key is not None and binding.value is None)
            ]
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file.name} cannot be read: {type(error).__name__}") from None
    if broken:
        raise SettingsError(f"{file.name}: line {broken[0]} is not NAME=value")


def _read_running(settings: Settings) -> dict[str, Any]:
    """What `publish_running` left, while the service that did so is running."""
    try:
        if settings.run_dir.lstat().st_uid != os.getuid():
            return {}  # in a shared place, anybody could have put it there
        with serve_lock(settings).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return {}  # nobody held it: what lies there is an old service's
    except BlockingIOError:
        pass
    except OSError:
        return {}
    try:
        values: dict[str, Any] = json.loads((settings.run_dir / _RUNNING_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values
