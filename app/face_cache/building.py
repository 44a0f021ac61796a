"""The cache that the settings ask for."""

from collections.abc import Collection, Mapping
from typing import Final
from uuid import UUID

from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.domains import cache_epochs
from app.db.session import Database
from app.face_cache.entry import FaceStore
from app.face_cache.memory import MemoryStore
from app.tenancy import acting, everything

_LIMIT_S: Final = 2.0


def build_store(settings: Settings, database: Database, breaker: CircuitBreaker) -> FaceStore | None:
    """Redis where REDIS_URL is set, else this process; None where FACE_CACHE_TTL_S is 0, or nothing has epochs."""
    if not settings.face_cache_ttl_s or not settings.vector_db_enabled:
        return None
    if settings.redis_url is not None:
        # Imported where it is used: with Redis' client, seven megabytes in each web process.
        from app.face_cache.sealing import Sealing
        from app.face_cache.shared import RedisStore

        return RedisStore(
            settings.redis_url.get_secret_value(),
            lambda: Sealing(settings.face_cache_key_file),
            settings.face_cache_ttl_s,
            settings.face_cache_entries,
        )

    def epochs(uids: Collection[UUID]) -> Mapping[UUID, int]:
        # Over the reserve: not behind the tenants' requests.
        with acting(everything("cache")), breaker.guard(), database.reserve.transaction(_LIMIT_S) as session:
            return cache_epochs(session, uids)

    return MemoryStore(settings.face_cache_ttl_s, settings.face_cache_entries, epochs)
