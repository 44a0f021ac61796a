"""What a web process counts of its streams; prometheus_client sums it over the processes."""

from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS_S = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)

OPEN: Final = Gauge("facedex_streams_open", "Open streams of sessions", multiprocess_mode="livesum")
CLOSED: Final = Counter("facedex_streams_closed_total", "Streams that have ended, by the server's close code", ["code"])
FRAMES: Final = Counter("facedex_stream_frames_total", "Frames of sessions, by what became of them", ["outcome"])
FRAME_SECONDS: Final = Histogram(
    "facedex_stream_frame_seconds", "Time from a frame to its answer, of those that were looked at", buckets=_BUCKETS_S
)


def observe_answer(answer: dict[str, Any], elapsed_s: float) -> None:
    """Count a frame by its answer, and the time of one that was looked at."""
    if answer.get("dropped"):
        FRAMES.labels(f"dropped_{next(iter(answer['reasons']), 'unsaid')}").inc()
        return
    FRAMES.labels("accepted" if answer.get("accepted") else "rejected").inc()
    FRAME_SECONDS.observe(elapsed_s)
