"""Requests a minute: counted in Redis for all processes together, or in each process by itself.

Flask-Limiter's engine, `limits`, without its extension: that starts a thread where the application is made, which may be before
a fork, and cannot count for a key that is only known once the request has been authenticated by the same hook.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

log = structlog.stdlib.get_logger("facedex.keys")

_REDIS_LIMIT_S: Final = 0.25
_RETRY_AFTER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Where somebody stands.

    Attributes:
        limit: requests a minute.
        remaining: how many are left of them.
        reset_s: seconds until they are all there again.
        exceeded: whether this one is too many.
    """

    limit: int
    remaining: int
    reset_s: int
    exceeded: bool


class RateLimits:
    """Counts of one installation. Nothing is opened before the first count; a dead Redis costs nobody an answer.

    Args:
        redis_url: None counts in this process.
        clock: seconds that never go back.
    """

    def __init__(self, redis_url: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis_url = redis_url
        self._clock = clock
        self._lock = threading.Lock()
        self._shared: FixedWindowRateLimiter | None = None
        self._own: FixedWindowRateLimiter | None = None
        self._retry_at_s = 0.0

    def count(self, kind: str, who: str, per_minute: int) -> Rate:
        """Count one request."""
        return self._with_storage(lambda limiter: _hit(limiter, kind, who, per_minute))

    def look(self, kind: str, who: str, per_minute: int) -> Rate:
        """Where somebody stands, without counting."""
        return self._with_storage(lambda limiter: _stand(limiter, kind, who, per_minute))

    def _with_storage(self, work: Callable[[FixedWindowRateLimiter], Rate]) -> Rate:
        if self._redis_url is not None and self._clock() >= self._retry_at_s:
            # Imported where it is used: seven megabytes, in each web process of installations without Redis.
            from redis.exceptions import RedisError

            try:
                return work(self._redis(self._redis_url))
            except (RedisError, OSError) as error:
                self._retry_at_s = self._clock() + _RETRY_AFTER_S
                log.warning(f"[KEYS] Redis does not answer; this process counts by itself: {type(error).__name__}")
        return work(self._memory())

    def _redis(self, url: str) -> FixedWindowRateLimiter:
        from limits.storage import RedisStorage
        from redis import ConnectionPool
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        with self._lock:
            if self._shared is None:
                pool = ConnectionPool.from_url(
                    url,
                    socket_timeout=_REDIS_LIMIT_S,
                    socket_connect_timeout=_REDIS_LIMIT_S,
                    retry=Retry(NoBackoff(), 0),  # the client's own three would each take as long
                )
                self._shared = FixedWindowRateLimiter(RedisStorage(url, pool, key_prefix="facedex"))
            return self._shared

    def _memory(self) -> FixedWindowRateLimiter:
        with self._lock:
            if self._own is None:
                self._own = FixedWindowRateLimiter(MemoryStorage())
            return self._own


def _hit(limiter: FixedWindowRateLimiter, kind: str, who: str, per_minute: int) -> Rate:
    within = limiter.hit(RateLimitItemPerMinute(per_minute), kind, who)
    rate = _stand(limiter, kind, who, per_minute)
    return Rate(rate.limit, rate.remaining, rate.reset_s, exceeded=not within)


def _stand(limiter: FixedWindowRateLimiter, kind: str, who: str, per_minute: int) -> Rate:
    stats = limiter.get_window_stats(RateLimitItemPerMinute(per_minute), kind, who)
    reset_s = min(60, max(1, round(stats.reset_time - time.time())))
    return Rate(per_minute, stats.remaining, reset_s, exceeded=stats.remaining == 0)
