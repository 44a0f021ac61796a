"""Settings: the only reader of the environment.

Values come from the process environment, then from the file `.env` beside `wsgi.py`, or the one that the environment
variable ENV_FILE names. A key in it that is not a setting, or a value that does not parse, is an error that names it.
"""

import hashlib
import json
import os
import tempfile
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parent.parent

# The environment variable that names another file than `.env`; an option of `scripts/serve` sets it.
ENV_FILE = "ENV_FILE"

# A Unix socket's path must fit in 108 bytes (sun_path, unix(7)), its final NUL and PostgreSQL's file name included.
_SOCKET_DIR_MAX_BYTES = 80


class SettingsError(Exception):
    """A setting is unknown or malformed; the message names each, and never holds a secret."""


class Settings(BaseSettings):
    """Everything that an operator can set. `.env.example` explains each field for them."""

    model_config = SettingsConfigDict(
        env_file=PROJECT_ROOT / ".env", extra="forbid", frozen=True, env_ignore_empty=True
    )

    storage_dir: Path = PROJECT_ROOT / "storage"
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    vector_db_enabled: bool = True
    vector_db_url: SecretStr | None = None
    db_pool_size: int = Field(8, ge=1, le=200)
    db_pool_timeout_s: float = Field(5.0, gt=0)
    db_connect_timeout_s: int = Field(10, ge=1)
    db_statement_timeout_s: float = Field(30.0, gt=0)
    search_exact_max_rows: int = Field(10_000, ge=0)
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

    embedder_url: str | None = None
    embedder_workers: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=256)
    embedder_queue: int = Field(64, ge=1, le=4096)
    embedder_max_requests: int = Field(10_000, ge=0)

    web_workers: int = Field(2, ge=1, le=64)
    web_threads: int = Field(16, ge=1, le=256)

    @field_validator("storage_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Relative to the checkout, not to the caller's folder: every process must arrive at the same data.
        return (PROJECT_ROOT / value.expanduser()).resolve()

    @field_validator("vector_db_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        return value

    @field_validator("embedder_url")
    @classmethod
    def _embedder_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("unix:/", "http://")):
            raise ValueError("must be unix:/path or http://host:port")
        return value

    @field_validator("pkl_datasets", mode="before")
    @classmethod
    def _json_object(cls, value: object) -> object:
        # Not left to pydantic-settings, whose error would not be one of ours.
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('must be a JSON object, e.g. {"slovenia": "/data/slovenia.pkl"}') from None

    @field_validator("pkl_datasets")
    @classmethod
    def _domains_and_paths(cls, value: dict[str, Path]) -> dict[str, Path]:
        # Names in the form that `app.names.clean_name` gives those of requests.
        named = {unicodedata.normalize("NFC", name).strip(): path for name, path in value.items()}
        if not all(named):
            raise ValueError("the name of a domain is empty")
        return {name: (PROJECT_ROOT / path.expanduser()).resolve() for name, path in named.items()}

    @property
    def models_dir(self) -> Path:
        """Installed model packs, one folder each."""
        return self.storage_dir / "models"

    @property
    def pkl_dir(self) -> Path:
        """DeepFace datasets, one folder a domain, and what was made from them."""
        return self.storage_dir / "pkl"

    @property
    def logs_dir(self) -> Path:
        """Log files."""
        return self.storage_dir / "logs"

    @property
    def admin_key_file(self) -> Path:
        """The admin API key, mode 600."""
        return self.storage_dir / "admin.key"

    @property
    def run_dir(self) -> Path:
        """Sockets and other files that live as long as the processes do, mode 700.

        Under the storage folder, or, where that path is too long for a Unix socket, in the system's temporary folder under a
        name derived from it, so that every process of one installation arrives at the same place.
        """
        inside = self.storage_dir / "run"
        if len(os.fsencode(inside)) <= _SOCKET_DIR_MAX_BYTES:
            return inside
        digest = hashlib.sha256(os.fsencode(self.storage_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"facedex-{os.getuid()}-{digest}"

    @property
    def embedder_address(self) -> str:
        """Where the worker pool listens: `unix:/path` or `http://host:port`."""
        return self.embedder_url or f"unix:{self.run_dir / 'embedder.sock'}"


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The process's settings, parsed once.

    Raises:
        SettingsError: names every unknown or malformed setting.
    """
    return parse_settings()


def reload_settings() -> Settings:
    """Parse anew what `load_settings` answers from now on in this process: `.env` may have changed, the environment cannot.

    Raises:
        SettingsError: as `load_settings`; it goes on answering the settings from before.
    """
    parse_settings()
    load_settings.cache_clear()
    return load_settings()


def set_in_environment(name: str) -> bool:
    """Whether a setting comes from the process's environment, where no edit of `.env` reaches it."""
    return bool(os.environ.get(name))


def parse_settings(**overrides: object) -> Settings:
    """Parse the environment anew; `overrides` win over it.

    Raises:
        SettingsError: names every unknown or malformed setting.
    """
    if named := os.environ.get(ENV_FILE):
        if not Path(named).is_file():  # pydantic-settings would go on without it
            raise SettingsError(f"{ENV_FILE}: there is no such file")
        overrides |= {"_env_file": named}
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        # The rejected value itself is left out: it may be a secret.
        lines = [
            f"{'.'.join(str(part) for part in item['loc']).upper() or 'settings'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("; ".join(lines)) from None
