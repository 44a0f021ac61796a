"""The settings of one controller: a TOML file that is checked as a whole before anything starts.

Secrets do not stand in it: it names files that hold them, or they come from the environment (`FACEDEX_EDGE_KEY`,
`FACEDEX_EDGE_BROKER_PASSWORD`).
"""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from app.edge.errors import ConfigError

KEY_VARIABLE: Final = "FACEDEX_EDGE_KEY"
PASSWORD_VARIABLE: Final = "FACEDEX_EDGE_BROKER_PASSWORD"  # noqa: S105 -- the name of a variable
_SECRET_MAX_BYTES: Final = 4_096


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A relative path starts where the file of settings lies."""
    return Path((info.context or {}).get("folder", "")) / path


FilePath = Annotated[Path, AfterValidator(_beside_the_file)]
# A level of an MQTT topic: no separator, no wildcard, nothing that a broker refuses.
Level = Annotated[str, StringConstraints(pattern=r"^[^/+#\x00-\x1f]+$", max_length=128)]
Topic = Annotated[str, StringConstraints(pattern=r"^[^+#\x00-\x1f]+$", max_length=512)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Mode = Literal["server", "local", "auto"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ServerSection(_Section):
    """The Facedex that is asked.

    Attributes:
        domain: name or id of the domain whose persons may be recognised here.
        key_file: holds an API key that may recognise in that domain, and read its gallery where the source is the feed.
        timeout_s: for one picture, all attempts together.
        attempts: how often a picture is sent at most.
        open_after: failures in a row after which the server is left alone for a while.
        retry_after_s, retry_after_max_s: that while, doubled with each failure up to the second.
    """

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/@]+(/[^\s?#]*)?$", max_length=2_000)]
    domain: Text
    key_file: FilePath | None = None
    timeout_s: Seconds = 4.0
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    open_after: Annotated[int, Field(ge=1, le=100)] = 3
    retry_after_s: Seconds = 1.0
    retry_after_max_s: Seconds = 30.0


class DynamoSection(_Section):
    """The tables, where members come from DynamoDB; credentials are those that boto3 finds."""

    region: Text
    reservations: Text
    members: Text
    endpoint: Text | None = None


class GallerySection(_Section):
    """Where members come from.

    Attributes:
        source: Facedex's feed, DynamoDB, or nothing but the local file.
        cache: the local file; a restart begins with it.
        cache_max_age_s: an older file is not used.
        interval_s: between one refresh and the next.
        contract: `EmbeddingContract.id` of the templates; the pack's own where a pack is configured.
        stored, codes: as `app.edge.gallery.Gallery`.
    """

    source: Literal["feed", "dynamodb", "file"] = "feed"
    cache: FilePath
    cache_max_age_s: Annotated[float, Field(gt=0, le=31_536_000)] = 86_400.0
    interval_s: Seconds = 5.0
    contract: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+:[1-9][0-9]{0,3}:[0-9a-f]{16}$")] | None = None
    stored: Literal["float32", "float16"] = "float32"
    codes: bool = True
    dynamodb: DynamoSection | None = None

    @model_validator(mode="after")
    def _tables(self) -> Self:
        if (self.source == "dynamodb") != (self.dynamodb is not None):
            raise ValueError('source = "dynamodb" and the section [gallery.dynamodb] belong together')
        return self


class RecognitionSection(_Section):
    """How faces become persons.

    Attributes:
        mode: `server` asks `/recognize`; `local` uses a model pack and the gallery; `auto` asks the server, and goes on
            locally while it cannot be reached.
        models_dir, pack: the installed model pack, for `local` and `auto`.
        threshold, margin: cosine distances, as in a pack's calibration, which they replace for local recognition.
        max_distance: a match of the server's that is further away than that does not count.
    """

    mode: Mode = "server"
    models_dir: FilePath | None = None
    pack: Text = "dlib"
    threshold: Annotated[float, Field(gt=0, lt=2)] | None = None
    margin: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_distance: Annotated[float, Field(gt=0, le=2)] | None = None
    max_pixels: Annotated[int, Field(ge=10_000, le=200_000_000)] = 16_000_000

    @model_validator(mode="after")
    def _pack(self) -> Self:
        if self.mode != "server" and self.models_dir is None:
            raise ValueError(f'mode = "{self.mode}" needs models_dir')
        return self


class BrokerSection(_Section):
    """The MQTT broker; it has to speak MQTT 5.

    Attributes:
        topic: of zigbee2mqtt: `<topic>/<lock>` tells occupancy, `<topic>/<lock>/set` is commanded.
        events_topic: below it, `member_detected` events and this controller's state are published.
    """

    host: Text
    port: Port = 1883
    username: Text | None = None
    password_file: FilePath | None = None
    tls: bool = False
    ca_file: FilePath | None = None
    topic: Topic = "zigbee2mqtt"
    events_topic: Topic = "facedex/edge"


class DoorsSection(_Section):
    """What opens, and for how long a touch counts.

    Attributes:
        hold_s: a lock that tells of no release is occupied for that long.
        max_age_s: a frame that is older when its match is known opens nothing.
        session_s: for how long frames are looked at after a touch or a movement.
    """

    hold_s: Seconds = 10.0
    max_age_s: Seconds = 10.0
    session_s: Seconds = 15.0


class CameraSection(_Section):
    """One camera.

    Attributes:
        source: `rtsp://…` (or `rtsps://…`), `video:FILE`, or `folder:FOLDER` of pictures.
        source_file: a file that holds the source, for an address with a password in it.
        locks: the door locks that it sees.
        motion_topic: where its ONVIF motion events are published; none: only touches start a session.
        fps: pictures a second at the most.
        loop: begin a video or a folder anew at its end.
    """

    name: Level
    source: Annotated[str, StringConstraints(pattern=r"^(rtsps?://|video:|folder:).+$")] | None = None
    source_file: FilePath | None = None
    locks: tuple[Level, ...]
    motion_topic: Topic | None = None
    fps: Annotated[float, Field(gt=0, le=60)] = 5.0
    loop: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.source is None) == (self.source_file is None):
            raise ValueError("either source or source_file is needed")
        if self.source is not None and self.source.startswith("rtsp") and "@" in self.source:
            raise ValueError("an address with a password belongs into a file of its own: source_file")
        if not self.locks:
            raise ValueError("a camera without locks opens nothing")
        if twice := _repeated(self.locks):
            raise ValueError(f"locks: {twice!r} stands there twice")
        return self


class HealthSection(_Section):
    """Where this controller says how it is: `GET http://host:port/healthz`, and over MQTT."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8_089
    interval_s: Seconds = 15.0


class EdgeConfig(_Section):
    """All settings of one controller.

    Attributes:
        name: of this controller, one level of its topics; the MQTT client's id is made of it.
    """

    name: Level
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    server: ServerSection
    gallery: GallerySection
    recognition: RecognitionSection = RecognitionSection()
    broker: BrokerSection
    doors: DoorsSection = DoorsSection()
    health: HealthSection = HealthSection()
    cameras: Annotated[tuple[CameraSection, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _together(self) -> Self:
        if twice := _repeated(camera.name for camera in self.cameras):
            raise ValueError(f"cameras: the name {twice!r} stands there twice")
        topics = [camera.motion_topic for camera in self.cameras if camera.motion_topic is not None]
        if twice := _repeated(topics):
            raise ValueError(f"cameras: the motion_topic {twice!r} stands there twice")
        if self.recognition.models_dir is None and self.gallery.contract is None:
            raise ValueError("gallery.contract is needed where recognition.models_dir names no pack")
        return self

    @property
    def locks(self) -> frozenset[str]:
        """Of all cameras."""
        return frozenset(lock for camera in self.cameras for lock in camera.locks)

    def locks_of_cameras(self) -> dict[str, frozenset[str]]:
        """The locks that each camera sees."""
        return {camera.name: frozenset(camera.locks) for camera in self.cameras}

    def secrets(self, environ: Mapping[str, str] = os.environ) -> "Secrets":
        """What the files and the environment hold.

        Raises:
            ConfigError: a file cannot be read, or there is no key.
        """
        api_key = _secret(self.server.key_file, environ.get(KEY_VARIABLE))
        if api_key is None:
            raise ConfigError(f"server.key_file is not set, and neither is {KEY_VARIABLE}.")
        password = _secret(self.broker.password_file, environ.get(PASSWORD_VARIABLE))
        return Secrets(api_key, password, {camera.name: _source(camera) for camera in self.cameras})


@dataclass(frozen=True, slots=True)
class Secrets:
    """What may stand in no log: `repr` and `str` show none of it.

    Attributes:
        sources: by camera: where its pictures come from.
    """

    api_key: SecretStr
    broker_password: SecretStr | None
    sources: Mapping[str, SecretStr] = field(repr=False)


def load_config(path: Path) -> EdgeConfig:
    """Read and check the file of settings.

    Raises:
        ConfigError: it cannot be read, is no TOML, or something in it is unknown, missing or malformed; all faults are named.
    """
    try:
        return parse_config(path.read_text("utf-8"), path.parent)
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"The file {path} is not UTF-8.") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_config(text: str, folder: Path) -> EdgeConfig:
    """As `load_config`; relative paths start at `folder`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}") from None
    try:
        # By way of JSON: strict checks then take a list for a tuple and a text for a path, and still no text for a number.
        return EdgeConfig.model_validate_json(json.dumps(data, default=str), context={"folder": str(folder)})
    except ValidationError as error:
        raise ConfigError("; ".join(_faults(error, data))) from None


def _faults(error: ValidationError, data: Mapping[str, Any]) -> Iterable[str]:
    for item in error.errors(include_url=False, include_input=False):
        reason = "there is no such setting" if item["type"] == "extra_forbidden" else item["msg"]
        where = _where(item["loc"], data)
        yield f"{where}: {reason}" if where else reason.removeprefix("Value error, ")


def _where(loc: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
    """`cameras["entrance"].fps`: a camera by its name, where it has one."""
    found = ""
    value: Any = data
    for part in loc:
        value = _inside(value, part)
        if isinstance(part, int):
            name = value.get("name") if isinstance(value, dict) else None
            found += f'["{name}"]' if isinstance(name, str) else f"[{part}]"
        else:
            found += f".{part}" if found else part
    return found


def _inside(value: Any, part: int | str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _repeated(values: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


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
