"""Locks report over MQTT, and `Triggers` hears of it."""

from collections.abc import Callable
from typing import Protocol

import structlog

from app.edge.mqtt import Handler, Received
from app.edge.zigbee import MalformedReport, parse_report, state_topic

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

    Whenever the connection changes, all that was known of locks is forgotten: a release may have been missed.

    Args:
        base_topic: zigbee2mqtt's.
        stamped_only: touches without `last_seen` do not count. After a start of its own, zigbee2mqtt says again what it
            remembers of each device; only by that time is it seen to be old.
    """

    def __init__(
        self,
        broker: Subscriptions,
        triggers: OccupancyListener,
        base_topic: str = "zigbee2mqtt",
        *,
        stamped_only: bool = False,
    ) -> None:
        self._triggers = triggers
        self._stamped_only = stamped_only
        self._locks = {state_topic(base_topic, lock): lock for lock in triggers.locks}
        for topic in self._locks:
            broker.subscribe(topic, self.handle)
        broker.on_change(lambda _connected: triggers.forget_locks())

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
        else:
            self._triggers.occupancy(lock, report.occupied, report.at)
