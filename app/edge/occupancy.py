"""Locks report over MQTT, and `Triggers` hears of it."""

import time
from collections.abc import Callable
from typing import Protocol

import structlog

from app.edge.mqtt import Handler, Received
from app.edge.zigbee import MalformedReport, OccupancyReport, parse_report, state_topic

log = structlog.stdlib.get_logger("facedex.edge.occupancy")


class Subscriptions(Protocol):
    """What is needed of a `Broker`."""

    def subscribe(self, topic: str, handler: Handler) -> None:
        """As `Broker.subscribe`."""
        ...

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """As `Broker.on_change`."""
        ...


class OccupancyListener(Protocol):
    """What is needed of `Triggers`."""

    @property
    def locks(self) -> frozenset[str]:
        """Whose reports are of interest."""
        ...

    def occupancy(self, lock: str, occupied: bool, at: float | None = None) -> bool:
        """As `Triggers.occupancy`."""
        ...

    def forget_locks(self) -> None:
        """As `Triggers.forget_locks`."""
        ...


class OccupancyFeed:
    """Tells `triggers` what its locks report; before the broker's start.

    Whenever the connection changes, all that was known of locks is forgotten: a release may have been missed. The first report
    of a lock after that, if it is a touch, may be an old one that zigbee2mqtt repeats: it counts only if it says that it was
    made since, else nothing counts before a release.

    Args:
        base_topic: zigbee2mqtt's.
        stamped_only: touches without `last_seen` do not count. After a start of its own, zigbee2mqtt says again what it
            remembers of each device; by that time it is seen to be old.
    """

    def __init__(
        self,
        broker: Subscriptions,
        triggers: OccupancyListener,
        base_topic: str = "zigbee2mqtt",
        *,
        stamped_only: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._triggers = triggers
        self._now = now
        self._stamped_only = stamped_only
        self._locks = {state_topic(base_topic, lock): lock for lock in triggers.locks}
        for topic in self._locks:
            broker.subscribe(topic, self.handle)
        broker.on_change(lambda _connected: self._forget())
        self._unheard: set[str] = set()
        self._doubtful: set[str] = set()
        self._since = 0.0
        self._forget()

    def _forget(self) -> None:
        self._triggers.forget_locks()
        self._unheard, self._doubtful = set(self._locks.values()), set()
        self._since = self._now()

    def handle(self, received: Received) -> None:
        """One message of a lock. Most are about something else."""
        lock = self._locks[received.topic]
        if received.retained:
            log.debug("retained report ignored", lock=lock)
            return
        try:
            report = parse_report(received.payload)
        except MalformedReport as error:
            log.warning("malformed report ignored", lock=lock, problem=str(error))
            return
        if report is None:
            return
        if self._stamped_only and report.occupied and report.at is None:
            log.warning("report without last_seen ignored", lock=lock)
            self._doubtful.add(lock)
        elif self._is_certain(lock, report):
            self._triggers.occupancy(lock, report.occupied, report.at)
        else:
            log.info("touch ignored, it may be an old one: a release has to come first", lock=lock)

    def _is_certain(self, lock: str, report: OccupancyReport) -> bool:
        """Whether it is no touch from before the connection."""
        first = lock in self._unheard
        self._unheard.discard(lock)
        if not report.occupied:
            self._doubtful.discard(lock)
        elif first and (report.at is None or report.at < self._since):
            self._doubtful.add(lock)
        return lock not in self._doubtful
