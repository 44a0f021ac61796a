"""The settings of one controller: a TOML file that is checked as a whole before anything starts.

Secrets do not stand in it: it names files that hold them (`app.edge.secrets`).
"""

import json
import tomllib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from app.edge.errors import ConfigError
from app.edge.faults import faults_of
from app.edge.sources.dynamodb_items import MemberTable, ReservationTable


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A relative path starts where the file of settings lies."""
    return Path((info.context or {}).get("folder", "")) / path


def _source_beside(source: str, info: ValidationInfo) -> str:
    """The same, of a source that is a file or a folder."""
    kind, _, rest = source.partition(":")
    return f"{kind}:{_beside_the_file(Path(rest), info)}" if kind in ("video", "folder") else source


FilePath = Annotated[Path, AfterValidator(_beside_the_file)]
# A level of an MQTT topic: no separator, no wildcard, nothing that a broker refuses.
Level = Annotated[str, StringConstraints(pattern=r"^[^/+#\x00-\x1f]+$", max_length=128)]
Topic = Annotated[str, StringConstraints(pattern=r"^[^+#\x00-\x1f]+$", max_length=512)]
_RESERVATIONS: Final = TypeAdapter(ReservationTable)
_MEMBERS: Final = TypeAdapter(MemberTable)
Text = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
Source = Annotated[
    str, StringConstraints(pattern=r"^(rtsps?://|video:|folder:).+$", max_length=2_000), AfterValidator(_source_beside)
]
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


Columns = dict[str, Text | tuple[Text, ...]]


class DynamoSection(_Section):
    """Where members come from DynamoDB; credentials are those that boto3 finds.

    Attributes:
        region, endpoint, horizon_s: as `app.edge.sources.dynamodb.DynamoSettings`.
        reservations, members: their index and attributes, where not as usual: as `ReservationTable` and `MemberTable`.
    """

    region: Text | None = None
    endpoint: Text | None = None
    horizon_s: Seconds = 86_400.0
    reservations: Columns = {}
    members: Columns = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, given, table in (
            ("reservations", self.reservations, ReservationTable),
            ("members", self.members, MemberTable),
        ):
            if unknown := sorted(given.keys() - {column.name for column in fields(table)}):
                raise ValueError(f"{name}.{unknown[0]}: there is no such setting")
        try:
            self.tables()
        except ValidationError as error:
            item = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, item['loc']))}: {item['msg']}") from None
        return self

    def tables(self) -> tuple[ReservationTable, MemberTable]:
        """The tables, with what is usual where nothing is said."""
        return _RESERVATIONS.validate_python(self.reservations), _MEMBERS.validate_python(self.members)


class GallerySection(_Section):
    """Where members come from.

    Attributes:
        source: Facedex's feed, or DynamoDB.
        cache: the local file; a restart begins with it.
        cache_max_age_s: an older file is not used, and after so long without an answer of the source nobody is recognised.
        withdrawn_keep_s: after so long of a void key, or of no such domain, the gallery and its file are removed.
        interval_s: between one refresh and the next.
        contract: `EmbeddingContract.id` of the templates; the pack's own where a pack is configured.
        stored, codes: as `app.edge.gallery.Gallery`.
    """

    source: Literal["feed", "dynamodb"] = "feed"
    cache: FilePath
    cache_max_age_s: Annotated[float, Field(gt=0, le=31_536_000)] = 86_400.0
    withdrawn_keep_s: Annotated[float, Field(ge=0, le=86_400)] = 600.0
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
        answer_s: a broker that takes longer to answer hangs, and gets no command; doors wait for it one after the other.
    """

    host: Text
    port: Port = 1883
    username: Text | None = None
    password_file: FilePath | None = None
    tls: bool = False
    ca_file: FilePath | None = None
    topic: Topic = "zigbee2mqtt"
    events_topic: Topic = "facedex/edge"
    answer_s: Annotated[float, Field(gt=0, le=30)] = 0.5


class DoorsSection(_Section):
    """What opens, and for how long a touch counts.

    Attributes:
        hold_s: a lock that tells of no release is occupied for that long.
        max_age_s: a frame that is older when its match is known opens nothing.
        session_s: for how long frames are looked at after a touch or a movement.
        last_seen_required: touches that do not say when they were made do not count.
        require_known_time: nothing opens until NTP, a clock with a battery or the source of members has said what time it is.
    """

    hold_s: Seconds = 10.0
    max_age_s: Seconds = 10.0
    session_s: Seconds = 15.0
    last_seen_required: bool = False
    require_known_time: bool = True


class CameraSection(_Section):
    """One camera.

    Attributes:
        source: `rtsp://…` (or `rtsps://…`), `video:FILE`, or `folder:FOLDER` of pictures.
        source_file: a file that holds the source, for an address with a password in it.
        locks: the door locks that it sees.
        motion_topic: where its ONVIF motion events are published; none: only touches start a session.
        fps: pictures a second at the most.
        latency_s: how long a picture is on its way from the lens to here: what was touched is what was touched then.
        loop: begin a video or a folder anew at its end.
    """

    name: Level
    source: Source | None = None
    source_file: FilePath | None = None
    locks: tuple[Level, ...]
    motion_topic: Topic | None = None
    fps: Annotated[float, Field(gt=0, le=60)] = 5.0
    latency_s: Annotated[float, Field(ge=0, le=10)] = 0.0
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
        if self.gallery.source == "feed" and ("/" in self.server.domain or self.server.domain in (".", "..")):
            raise ValueError("server.domain: such a name cannot stand in an address; give the domain's id")
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
        raise ConfigError("; ".join(faults_of(error, data))) from None


def _repeated(values: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
