"""Extracted faces in Redis, for all processes and hosts of an installation."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar
from uuid import UUID

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from app.errors import CacheUnavailable
from app.face_cache.counts import ERRORS, EVICTIONS, LOOKUPS, REDIS_ENTRIES
from app.face_cache.entry import EntryKey
from app.face_cache.sealing import Sealing

log = structlog.stdlib.get_logger("facedex.face_cache")

T = TypeVar("T")

# One answer of a healthy Redis takes a fraction of a millisecond, a model some twenty of them and more.
_LIMIT_S: Final = 0.05
_CONNECT_LIMIT_S: Final = 0.1
RETRY_AFTER_S: Final = 3.0
"""For how long a Redis that does not answer is left alone."""
# Nobody waits for an erasure's answer in vain: it is tried again.
_ERASE_LIMIT_S: Final = 2.0
_SCAN_COUNT: Final = 5_000
# Longer than any request lasts that has read the domain before it was erased.
_FLOOR_S: Final = 86_400
_GONE: Final = "gone"
# The braces keep all of it in one slot of a cluster.
_PREFIX: Final = "facedex:{faces}:"
# What the driver says in its own errors, and, of options of its URL that it cannot parse, or of text for bytes, in Python's.
_FAILURES: Final = (RedisError, OSError, ValueError)

# Nothing is kept of an epoch that an erasure has ended: whoever was extracting faces meanwhile comes too late. Returns how many
# entries had to go for this one: the oldest.
_PUT: Final = """
local floor = redis.call('GET', KEYS[2])
if floor and (floor == 'gone' or tonumber(floor) > tonumber(ARGV[3])) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZADD', KEYS[3], now + ARGV[2], KEYS[1])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
local over = redis.call('ZCARD', KEYS[3]) - ARGV[4]
if over <= 0 then return 0 end
local oldest = redis.call('ZPOPMIN', KEYS[3], over)
for i = 1, #oldest, 2 do redis.call('UNLINK', oldest[i]) end
return over
"""


class RedisStore:
    """Entries in Redis, sealed. Nothing is opened before the first use; a Redis that does not answer is left alone for a while.

    Args:
        url: of Redis.
        sealing: makes what seals the entries; called once, with the first use.
        ttl_s: how long an entry is kept.
        entries: how many are, of this installation.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        url: str,
        sealing: Callable[[], Sealing],
        ttl_s: float,
        entries: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._make_sealing = sealing
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._entries = entries
        self._clock = clock
        self._lock = threading.Lock()
        self._opened: tuple[Redis, Sealing, Any] | None = None
        self._retry_at_s: float | None = None

    def get(self, key: EntryKey) -> bytes | None:
        """As `FaceStore.get`."""

        def work(redis: Redis, sealing: Sealing, _put: Any) -> tuple[bytes | None]:
            name = _name(sealing, key)
            sealed = redis.get(name)
            return (sealing.open(name, sealed) if isinstance(sealed, bytes) else None,)

        answer = self._ask("get", work)
        found = None if answer is None else answer[0]
        LOOKUPS.labels("unavailable" if answer is None else "miss" if found is None else "hit").inc()
        return found

    def put(self, key: EntryKey, analysis: bytes) -> None:
        """As `FaceStore.put`."""

        def work(_redis: Redis, sealing: Sealing, put: Any) -> int:
            name = _name(sealing, key)
            names = [name, _floor(key.domain.uid), _index(sealing)]
            sealed = sealing.seal(name, analysis)
            return int(put(keys=names, args=[sealed, self._ttl_ms, key.domain.epoch, self._entries]))

        if evicted := self._ask("put", work):
            EVICTIONS.labels("full").inc(evicted)

    def observe(self) -> None:
        """As `FaceStore.observe`: how many entries there are."""

        def work(redis: Redis, sealing: Sealing, _put: Any) -> int:
            return int(redis.zcount(_index(sealing), time.time() * 1000, "+inf"))

        if (entries := self._ask("count", work)) is not None:
            REDIS_ENTRIES.set(entries)

    def _ask(self, operation: str, work: Callable[[Redis, Sealing, Any], T]) -> T | None:
        """What Redis answers; None where it does not: then nobody asks it for some seconds, after which one does."""
        if not self._may_ask():
            return None
        try:
            answer = work(*self._open())
        except _FAILURES as error:
            ERRORS.labels(operation).inc()
            if self._note_retry(self._clock() + RETRY_AFTER_S) is None:
                log.warning(f"[CACHE] Redis does not answer; faces are extracted anew: {type(error).__name__}")
            return None
        if self._note_retry(None) is not None:
            log.warning("[CACHE] Redis is back")
        return answer

    def _note_retry(self, at_s: float | None) -> float | None:
        """When it is to be asked again, None for always. Returns what was noted before."""
        with self._lock:
            before, self._retry_at_s = self._retry_at_s, at_s
            return before

    def _may_ask(self) -> bool:
        with self._lock:
            if self._retry_at_s is None:
                return True
            if self._clock() < self._retry_at_s:
                return False
            self._retry_at_s = self._clock() + RETRY_AFTER_S  # for the others: this one tries
            return True

    def _open(self) -> tuple[Redis, Sealing, Any]:
        with self._lock:
            if self._opened is None:
                redis = _client(self._url, _LIMIT_S, _CONNECT_LIMIT_S)
                self._opened = redis, self._make_sealing(), redis.register_script(_PUT)
            return self._opened


def erase_domain_from_redis(url: str, uid: UUID, epoch: int | None) -> int:
    """Delete all entries of a domain, whoever has sealed them; what was begun under an earlier epoch is not kept any more.

    Args:
        epoch: the domain's present one; None where there is no such domain any more.

    Returns:
        how many there were.

    Raises:
        CacheUnavailable: Redis does not do it.
    """
    try:
        with _client(url, _ERASE_LIMIT_S, _ERASE_LIMIT_S) as redis:
            redis.set(_floor(uid), _GONE if epoch is None else epoch, ex=_FLOOR_S)
            names = list(redis.scan_iter(match=f"{_PREFIX}{uid}:*", count=_SCAN_COUNT))
            indexes = list(redis.scan_iter(match=f"{_PREFIX}index:*", count=_SCAN_COUNT))
            with redis.pipeline(transaction=False) as deletions:
                for name in names:
                    deletions.unlink(name)
                for index in indexes if names else ():
                    deletions.zrem(index, *names)
                return sum(deletions.execute()[: len(names)])
    except _FAILURES as error:
        ERRORS.labels("erase").inc()
        raise CacheUnavailable(f"Redis does not delete its entries: {type(error).__name__}.") from error


def _client(url: str, limit_s: float, connect_limit_s: float) -> Redis:
    return Redis.from_url(
        url,
        socket_timeout=limit_s,
        socket_connect_timeout=connect_limit_s,
        retry=Retry(NoBackoff(), 0),  # the client's own three would each take as long
    )


def _name(sealing: Sealing, key: EntryKey) -> str:
    return f"{_PREFIX}{key.domain.uid}:{sealing.name(key)}"


def _floor(uid: UUID) -> str:
    return f"{_PREFIX}floor:{uid}"


def _index(sealing: Sealing) -> str:
    return f"{_PREFIX}index:{sealing.id}"
