"""Asks the pool, unless the same domain has asked about the same picture a moment ago."""

import hashlib
import time
from dataclasses import replace

from app.db.domains import DomainKey
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.embedder.protocol import dump_analysis, load_analysis
from app.face_cache.entry import MAX_ENTRY_BYTES, EntryKey, FaceStore
from app.vision.faces import Analysis, Effort


class CachedEmbedder:
    """`EmbedderClient.analyze` with a memory. What the cache cannot do it leaves undone: no request fails because of it.

    Args:
        store: None keeps nothing.
    """

    def __init__(self, embedder: EmbedderClient, store: FaceStore | None = None) -> None:
        self._embedder = embedder
        self._store = store

    def analyze(
        self,
        image: bytes,
        *,
        epoch: DomainKey | None,
        deadline: Deadline,
        request_id: str = "",
        client: str = "",
        background: bool = False,
        effort: Effort = "usual",
    ) -> Analysis:
        """Detect all faces of one picture, and embed them.

        Args:
            image, deadline, request_id, client, background, effort: as of `EmbedderClient.analyze`.
            epoch: the domain that it is for, as it was read from the database for this very request; None: neither looked up
                nor kept.

        Returns:
            all faces, largest first. Those of a hit have `timings_ms` of `cache` alone: no worker had any work with them.

        Raises: as `EmbedderClient.analyze`. Errors are never kept: the next request asks again.
        """

        def look() -> Analysis:
            return self._embedder.analyze(
                image, deadline=deadline, request_id=request_id, client=client, background=background, effort=effort
            )

        if epoch is None or self._store is None:
            return look()
        started_s = time.monotonic()
        key = EntryKey(epoch, hashlib.sha256(image).digest(), effort)
        if (kept := _readable(self._store.get(key))) is not None:
            return replace(kept, timings_ms={"cache": (time.monotonic() - started_s) * 1000})
        analysis = look()
        # Another model's is not what a later request would be answered by, once the pool has the domain's.
        if (analysis.model, analysis.contract) == (epoch.model, epoch.contract):
            dumped = dump_analysis(replace(analysis, timings_ms={}))
            if len(dumped) <= MAX_ENTRY_BYTES:
                self._store.put(key, dumped)
        return analysis

    def observe(self) -> None:
        """Bring the cache's metrics up to date."""
        if self._store is not None:
            self._store.observe()


def _readable(kept: bytes | None) -> Analysis | None:
    """An entry that another version of this program has written may be in no form that this one reads: it is none."""
    try:
        return None if kept is None else load_analysis(kept)
    except (ValueError, KeyError, TypeError):
        return None
