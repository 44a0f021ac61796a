"""Prometheus metrics: the web's, summed over its processes (prometheus_client's multi-process mode), and the pool's own."""

import os
from typing import get_args

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from app.embedder.client import EmbedderClient
from app.enrolment.jobs import JobService
from app.errors import DatabaseError, EmbedderError
from app.face_cache.cached import CachedEmbedder
from app.face_cache.counts import LOOKUPS_NAME, Outcome
from app.tenancy import acting, everything

_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

REQUESTS = Counter("facedex_http_requests_total", "Answered requests", ["method", "route", "status"])
REQUEST_SECONDS = Histogram("facedex_http_request_seconds", "Time to answer", ["method", "route"], buckets=_BUCKETS_S)
STAGE_SECONDS = Histogram("facedex_recognition_stage_seconds", "Time by stage", ["stage"], buckets=_BUCKETS_S)
DECISIONS = Counter("facedex_face_decisions_total", "Faces by decision", ["mode", "decision"])
ANSWERS = Counter(
    "facedex_recognition_answers_total", "Recognition requests answered, by service and reason", ["mode", "reason"]
)
BATCH_PICTURES = Counter("facedex_batch_pictures_total", "Pictures of batches of embeddings, by outcome", ["outcome"])
VERIFICATIONS = Counter("facedex_verifications_total", "Pairs of pictures compared, by outcome", ["outcome"])
ENROLMENTS = Counter("facedex_enrolment_files_total", "Pictures offered for enrolment, by outcome", ["outcome"])
AUDIT_EVENTS = Counter(
    "facedex_audit_events_total", "Events of recognitions and verifications, by what became of them", ["outcome"]
)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def observe_request(method: str, route: str, status: int, elapsed_s: float) -> None:
    """Count one answered request; a made-up method does not make a new time series."""
    method = method if method in _METHODS else "other"
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(method, route).observe(elapsed_s)


def metrics_response(embedder: EmbedderClient, cached: CachedEmbedder, jobs: JobService) -> Response:
    """All metrics in Prometheus' text format; the pool's are missing where it is away, and `facedex_pool_up` says so.

    So are those of the jobs where the database is.
    """
    cached.observe()
    return Response(
        generate_latest(_registry()) + _pool_metrics(embedder) + _job_metrics(jobs), content_type=CONTENT_TYPE_LATEST
    )


def cache_lookups() -> dict[str, int]:
    """How often the cache of extracted faces was asked, by outcome, in all web processes since they were started."""
    registry = _registry()
    return {
        outcome: int(registry.get_sample_value(LOOKUPS_NAME, {"outcome": outcome}) or 0)
        for outcome in get_args(Outcome)
    }


def _registry() -> CollectorRegistry:
    """What all web processes have counted, or, where there is one only, what it has."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _pool_metrics(embedder: EmbedderClient) -> bytes:
    # Written by hand: a Gauge of prometheus_client would be kept in a file by each web process, and summed.
    head = b"# HELP facedex_pool_up Whether the worker pool answers\n# TYPE facedex_pool_up gauge\nfacedex_pool_up "
    try:
        return head + b"1.0\n" + embedder.metrics()
    except EmbedderError:
        return head + b"0.0\n"


def _job_metrics(jobs: JobService) -> bytes:
    """The queue's, which is one for all processes and hosts."""
    try:
        with acting(everything("metrics")):
            report = jobs.report()
    except DatabaseError:
        return b""
    waiting = sum(count for (_, state), count in report.counts.items() if state == "queued")
    lines = ["# HELP facedex_jobs Jobs that are kept, by kind and state", "# TYPE facedex_jobs gauge"]
    lines += [
        f'facedex_jobs{{kind="{kind}",state="{state}"}} {count}' for (kind, state), count in report.counts.items()
    ]
    lines += ["# HELP facedex_jobs_waiting Jobs that wait", "# TYPE facedex_jobs_waiting gauge"]
    lines += [f"facedex_jobs_waiting {waiting}"]
    lines += ["# HELP facedex_jobs_oldest_seconds Age of the oldest job that waits"]
    lines += ["# TYPE facedex_jobs_oldest_seconds gauge", f"facedex_jobs_oldest_seconds {report.oldest_s:.3f}", ""]
    return "\n".join(lines).encode()
