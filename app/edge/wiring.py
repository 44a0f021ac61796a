"""From settings to parts: which source, which recogniser, which broker."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from app.edge.asking import ServerRecognizer
from app.edge.circuit import Circuit
from app.edge.clock import Clock
from app.edge.config import EdgeConfig
from app.edge.connecting import BrokerSettings
from app.edge.errors import ConfigError
from app.edge.gallery import Gallery
from app.edge.health import OFFLINE
from app.edge.local import LocalRecognizer, find_pack
from app.edge.messages import Message
from app.edge.mqtt import Broker
from app.edge.recognition import By, Recognizer, SwitchingRecognizer
from app.edge.secrets import Secrets
from app.edge.snapshot import Snapshot
from app.edge.sources import Heard, Source
from app.edge.sources.dynamodb import DynamoSettings, DynamoSource
from app.edge.sources.feed import FeedSource
from app.edge.sources.file import CacheFile
from app.edge.sync import GallerySync
from app.vision.engine import load_engine
from app.vision.packs import contract_dimension


@dataclass(frozen=True, slots=True)
class Recognition:
    """A recogniser, and what health tells of it. `circuit` is None where no server is asked."""

    recognizer: Recognizer
    circuit: Circuit | None

    @property
    def by(self) -> By:
        """Who recognised the last picture."""
        if isinstance(self.recognizer, SwitchingRecognizer):
            return self.recognizer.by
        return "local" if self.circuit is None else "server"


def make_gallery(config: EdgeConfig) -> Gallery:
    """An empty gallery of the configured model.

    Raises:
        ConfigError: the pack is not there, or makes other embeddings than `gallery.contract` says.
    """
    contract = config.gallery.contract
    if config.recognition.models_dir is not None and config.recognition.mode != "server":
        of_pack = find_pack(config.recognition.models_dir, config.recognition.pack).manifest.contract.id
        if contract is not None and contract != of_pack:
            raise ConfigError(f"gallery.contract is {contract}; the pack {config.recognition.pack} makes {of_pack}.")
        contract = of_pack
    assert contract is not None, "checked by EdgeConfig"
    return Gallery(contract, contract_dimension(contract), stored=config.gallery.stored, codes=config.gallery.codes)


def make_source(
    config: EdgeConfig,
    secrets: Secrets,
    gallery: Gallery,
    clock: Clock,
    heard: Heard = lambda date, asked_s, came_s: None,
) -> Source:
    """Where members come from.

    Args:
        heard: is told when its answers were made.

    Raises:
        ConfigError: the settings of DynamoDB's tables cannot be used.
    """
    if config.gallery.dynamodb is None:
        return FeedSource(config.server.url, config.server.domain, secrets.api_key.get_secret_value, heard=heard)
    section = config.gallery.dynamodb
    reservations, members = section.tables()
    settings = DynamoSettings(
        region=section.region,
        endpoint=section.endpoint,
        reservations=reservations,
        members=members,
        horizon_s=section.horizon_s,
    )
    return DynamoSource(settings, gallery.contract, gallery.dimension, now=clock.now, heard=heard)


def make_sync(config: EdgeConfig, gallery: Gallery, source: Source, clock: Clock) -> GallerySync:
    """What keeps the gallery up to date, beginning with the local file."""
    cache = CacheFile(
        config.gallery.cache,
        source=source.name,
        contract=gallery.contract,
        dimension=gallery.dimension,
        max_age_s=config.gallery.cache_max_age_s,
    )
    return GallerySync(
        gallery,
        source,
        cache,
        config.gallery.interval_s,
        clock,
        max_age_s=config.gallery.cache_max_age_s,
        withdrawn_keep_s=config.gallery.withdrawn_keep_s,
    )


def make_recognition(
    config: EdgeConfig, secrets: Secrets, snapshot: Callable[[], Snapshot], clock: Clock
) -> Recognition:
    """By the server, locally, or by both.

    Raises:
        ConfigError: the pack is not there, or damaged.
    """
    if config.recognition.mode == "local":
        return Recognition(_local(config, snapshot, clock), None)
    server = config.server
    circuit = Circuit(clock, server.open_after, server.retry_after_s, server.retry_after_max_s)
    asking = ServerRecognizer(
        # As many connections as cameras: each waits for its own answer.
        httpx.Client(base_url=server.url, limits=httpx.Limits(max_connections=len(config.cameras))),
        secrets.api_key,
        server.domain,
        snapshot,
        clock,
        circuit,
        timeout_s=server.timeout_s,
        attempts=server.attempts,
        max_distance=config.recognition.max_distance,
    )
    if config.recognition.mode == "server":
        return Recognition(asking, circuit)
    return Recognition(SwitchingRecognizer(asking, _local(config, snapshot, clock)), circuit)


def _local(config: EdgeConfig, snapshot: Callable[[], Snapshot], clock: Clock) -> LocalRecognizer:
    settings = config.recognition
    assert settings.models_dir is not None, "checked by EdgeConfig"
    pack = find_pack(settings.models_dir, settings.pack)
    calibration = pack.manifest.calibration

    return LocalRecognizer(
        lambda: load_engine(pack),
        snapshot,
        clock,
        threshold=calibration.threshold if settings.threshold is None else settings.threshold,
        margin=calibration.margin if settings.margin is None else settings.margin,
        max_pixels=settings.max_pixels,
    )


def make_broker(config: EdgeConfig, secrets: Secrets, status_topic: str) -> Broker:
    """The way to the broker, which says `offline` when this controller is gone.

    Raises:
        ConfigError: the file of certificates cannot be used.
    """
    section = config.broker
    password = secrets.broker_password
    settings = BrokerSettings(
        host=section.host,
        port=section.port,
        client_id=f"facedex-edge-{config.name}",
        username=section.username,
        password=None if password is None else password.get_secret_value(),
        tls=section.tls,
        ca_file=section.ca_file,
        answer_s=section.answer_s,
    )
    return Broker(settings, will=Message(status_topic, OFFLINE.encode(), retain=True))
