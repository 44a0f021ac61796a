"""What a web process counts of its streams; prometheus_client sums it over the processes."""

from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS_S = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)

OPEN: Final = Gauge("facedex_streams_open", "Open streams of sessions", multiprocess_mode="livesum")
CLOSED: Final = Counter("facedex_streams_closed_total", "Streams that have ended, by the server's close code", ["code"])
FRAMES: Final = Counter("facedex_stream_frames_total", "Frames of sessions, by what became of them", ["outcome"])
FRAME_SECONDS: Final = Histogram(
    "facedex_stream_frame_seconds", "Time from a frame to its answer, of those looked at", buckets=_BUCKETS_S
)

_STATUSES: Final = frozenset({"accepted", "rejected"})


def observe_look(answer: dict[str, Any], elapsed_s: float) -> None:
    """Count a frame that was looked at."""
    status = answer.get("status")
    FRAMES.labels(status if status in _STATUSES else "other").inc()
    FRAME_SECONDS.observe(elapsed_s)
