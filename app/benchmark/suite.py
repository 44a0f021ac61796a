"""The five comparisons: what Facedex does, each beside the way in which the system before it did the same."""

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.benchmark.comparison import Claim, Comparison
from app.benchmark.partitions import compare_searches
from app.benchmark.timing import time_interleaved
from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.domains import Gallery, load_gallery
from app.db.models import FaceEmbedding
from app.db.session import Database, translated_errors, unpooled_engine
from app.db.unit import enter
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.errors import BenchmarkImpossible, PoolBusy
from app.face_cache.building import build_store
from app.face_cache.cached import CachedEmbedder
from app.tenancy import current_reach
from app.vision.faces import Analysis

_CLIENT: Final = "benchmark"
# What is kept of a measurement in Redis ends by itself soon after.
_CACHE_TTL_S: Final = 60.0
_LOOK_WITHIN_S: Final = 60.0
_BUSY_PAUSE_S: Final = 0.01
_PICTURES_A_CLIENT: Final = 2
_CLIENTS_A_WORKER: Final = 2


@dataclass(frozen=True, slots=True)
class Suite:
    """What is measured: a running service's database and pool, with its settings.

    Attributes:
        domain: the client's name, or its id.
        picture: the bytes of a photo of one person.
        runs: how often each way is timed.
        progress: is told what begins.
    """

    settings: Settings
    database: Database
    embedder: EmbedderClient
    domain: str
    picture: bytes
    runs: int
    progress: Callable[[str], None]

    def run(self) -> Iterator[Comparison]:
        """One comparison after the other.

        Raises:
            DomainNotFound: no such client.
            BenchmarkImpossible: the client has no face, or the picture has none.
            DatabaseError, EmbedderError, ImageError: as their names say.
        """
        with self.database.transaction() as session:
            gallery = load_gallery(session, self.domain)
            person_id = session.scalar(
                select(FaceEmbedding.person_id).where(FaceEmbedding.domain_id == gallery.domain_id).limit(1)
            )
        if person_id is None:
            raise BenchmarkImpossible("The client has no face: enrol somebody first.")
        self.progress("asking the pool")
        seen = self._look(0)
        if not seen.faces:
            raise BenchmarkImpossible("There is no face on the photo.")
        yield compare_searches(self.database, gallery, self.runs, self.progress)
        yield self._cache_hits(gallery, seen)
        yield self._throughput()
        yield self._pooling()
        yield self._repeated_enrolment(gallery, person_id)

    def _look(self, _run: int) -> Analysis:
        """Where others keep the pool busy, that is waited for."""
        deadline = Deadline.after(_LOOK_WITHIN_S)
        while True:
            try:
                return self.embedder.analyze(self.picture, deadline=deadline, client=_CLIENT)
            except PoolBusy:
                if deadline.expired:
                    raise
                time.sleep(_BUSY_PAUSE_S)

    def _cache_hits(self, gallery: Gallery, seen: Analysis) -> Comparison:
        self.progress("cache hits")
        settings = self.settings.model_copy(update={"face_cache_ttl_s": _CACHE_TTL_S})
        cached = CachedEmbedder(self.embedder, build_store(settings, self.database, CircuitBreaker()))
        key = replace(gallery.key, model=seen.model, contract=seen.contract)
        # Pictures that nobody else has: not even a repetition of this measurement.
        picture = self.picture + secrets.token_bytes(16)

        def ask() -> Analysis:
            deadline = Deadline.after(_LOOK_WITHIN_S)
            return cached.analyze(picture, epoch=key, deadline=deadline, client=_CLIENT)

        def hit(_run: int) -> None:
            if "cache" not in ask().timings_ms and "cache" not in ask().timings_ms:
                raise BenchmarkImpossible("The cache does not keep what it is given; does Redis answer?")

        hit(0)
        naive, own = time_interleaved({"naive": self._look, "own": hit}, self.runs)
        where = "Redis" if settings.redis_url else "the process"
        return Comparison(
            "cache hit",
            Claim(80, 90),
            naive,
            own,
            f"a photo that comes again, from {where}, against extracting it anew",
        )

    def _throughput(self) -> Comparison:
        workers = max(1, len(self.embedder.status().workers))
        clients = workers * _CLIENTS_A_WORKER
        self.progress(f"{clients} clients at once")
        pictures = range(clients * _PICTURES_A_CLIENT)
        with ThreadPoolExecutor(clients) as threads:
            naive, own = time_interleaved(
                {
                    "naive": lambda _run: [self._look(number) for number in pictures],
                    "own": lambda _run: list(threads.map(self._look, pictures)),
                },
                max(2, self.runs // 4),
            )
        return Comparison(
            "throughput under concurrency",
            Claim(40, 60, of_rate=True),
            naive,
            own,
            f"{len(pictures)} photos of {clients} clients at {workers} workers, against one after another",
        )

    def _pooling(self) -> Comparison:
        self.progress("connections")
        engine = unpooled_engine(self.settings, timeout_s=self.settings.db_statement_timeout_s)

        def connect_anew(_run: int) -> None:
            with translated_errors(), Session(engine) as session, session.begin():
                enter(session, current_reach(), {})
                load_gallery(session, self.domain)

        def take_from_pool(_run: int) -> None:
            with self.database.transaction() as session:
                load_gallery(session, self.domain)

        naive, own = time_interleaved({"naive": connect_anew, "own": take_from_pool}, self.runs)
        return Comparison(
            "pooled connection",
            Claim(30, 40),
            naive,
            own,
            "a request's transaction on a connection of the pool, against a new connection",
        )

    def _repeated_enrolment(self, gallery: Gallery, person_id: object) -> Comparison:
        self.progress("kept embeddings")

        def read_kept(_run: int) -> None:
            with self.database.transaction() as session:
                found = load_gallery(session, self.domain)
                query = select(FaceEmbedding.embedding).where(
                    FaceEmbedding.domain_id == found.domain_id, FaceEmbedding.person_id == person_id
                )
                if not session.scalars(query).all():
                    raise BenchmarkImpossible("The person whose embeddings are read was deleted meanwhile.")

        naive, own = time_interleaved({"naive": self._look, "own": read_kept}, self.runs)
        return Comparison(
            "repeated enrolment",
            Claim(70, 80),
            naive,
            own,
            "the embeddings that are kept of a person, against recomputing the reference photo's for each session",
        )
