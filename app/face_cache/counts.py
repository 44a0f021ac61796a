"""What the cache of extracted faces tells in `/metrics`."""

from typing import Final, Literal

from prometheus_client import Counter, Gauge

Outcome = Literal["hit", "miss", "unavailable"]

LOOKUPS_NAME: Final = "facedex_face_cache_lookups_total"
LOOKUPS: Final = Counter(
    LOOKUPS_NAME,
    "Pictures looked up in the cache of extracted faces: hit, miss, or unavailable where Redis does not answer",
    ["outcome"],
)
ERRORS: Final = Counter(
    "facedex_face_cache_errors_total", "What Redis did not do for the cache of extracted faces", ["operation"]
)
EVICTIONS: Final = Counter(
    "facedex_face_cache_evictions_total",
    "Entries that went before their time: the cache was full, or they were out of date",
    ["reason"],
)
PROCESS_ENTRIES: Final = Gauge(
    "facedex_face_cache_entries",
    "Entries of the cache of extracted faces in the web's processes",
    multiprocess_mode="livesum",
)
REDIS_ENTRIES: Final = Gauge(
    "facedex_face_cache_redis_entries",
    "Entries of the cache of extracted faces in Redis, when last asked",
    multiprocess_mode="livemostrecent",
)
