"""What may stand in no log: the API key, the broker's password, and addresses of cameras."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from app.edge.config import CameraSection, EdgeConfig
from app.edge.errors import ConfigError

KEY_VARIABLE: Final = "FACEDEX_EDGE_KEY"
PASSWORD_VARIABLE: Final = "FACEDEX_EDGE_BROKER_PASSWORD"  # noqa: S105 -- the name of a variable
_SECRET_MAX_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Secrets:
    """`repr` and `str` show none of it.

    Attributes:
        sources: by camera: where its pictures come from.
    """

    api_key: SecretStr
    broker_password: SecretStr | None
    sources: Mapping[str, SecretStr] = field(repr=False)


def read_secrets(config: EdgeConfig, environ: Mapping[str, str] = os.environ) -> Secrets:
    """What the files hold that the settings name, and the environment, which goes before them.

    Raises:
        ConfigError: a file cannot be read, or there is no key.
    """
    api_key = _secret(config.server.key_file, environ.get(KEY_VARIABLE))
    if api_key is None:
        raise ConfigError(f"server.key_file is not set, and neither is {KEY_VARIABLE}.")
    password = _secret(config.broker.password_file, environ.get(PASSWORD_VARIABLE))
    return Secrets(api_key, password, {camera.name: _source(camera) for camera in config.cameras})


def _source(camera: CameraSection) -> SecretStr:
    if camera.source is not None:
        return SecretStr(camera.source)
    found = _secret(camera.source_file, None)
    if found is None or not found.get_secret_value().startswith(("rtsp://", "rtsps://", "video:", "folder:")):
        raise ConfigError(f'cameras["{camera.name}"].source_file holds no rtsp://, video: or folder: source.')
    return found


def _secret(path: Path | None, given: str | None) -> SecretStr | None:
    """The environment's, else the file's."""
    if given:
        return SecretStr(given)
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            text = stream.read(_SECRET_MAX_BYTES).decode().strip()
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"The file {path} is not UTF-8.") from None
    if not text or "\n" in text:
        raise ConfigError(f"The file {path} has to hold one line.")
    return SecretStr(text)
