"""What the pool counts, for Prometheus. It has a registry of its own: there is one pool for all the web's processes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class PoolMetrics:
    """The pool's counters."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.jobs = self._counter(
            "facedex_pool_jobs_total", "Jobs by outcome: ok, or the error's code", ["outcome", "lane"]
        )
        self.ends = self._counter(
            "facedex_pool_worker_restarts_total", "Workers that were replaced, by cause", ["cause"]
        )
        self.queue_wait = self._histogram("facedex_pool_queue_wait_seconds", "Time from arrival to a worker", ["lane"])
        self.job_time = self._histogram("facedex_pool_job_seconds", "Time that a worker held a job", [])
        self.queue_length = self._gauge("facedex_pool_queue_length", "Jobs that wait for a worker", ["model", "lane"])
        self.quarantined = self._gauge("facedex_pool_quarantined_pictures", "Pictures that no worker gets any more", [])
        self.state = self._gauge(
            "facedex_pool_worker_state", "1 for what a worker is doing", ["worker", "model", "state"]
        )
        self.memory = self._gauge("facedex_pool_worker_memory_bytes", "Resident memory after the last job", ["worker"])

    def exposition(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, documentation: str, labels: list[str]) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)

    def _gauge(self, name: str, documentation: str, labels: list[str]) -> Gauge:
        return Gauge(name, documentation, labels, registry=self._registry)

    def _histogram(self, name: str, documentation: str, labels: list[str]) -> Histogram:
        return Histogram(name, documentation, labels, registry=self._registry, buckets=_SECONDS)


def counted(counter: Counter, label: str) -> dict[str, int]:
    """A counter's values by one of its labels, the others added up."""
    values: dict[str, int] = {}
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                name = sample.labels[label]
                values[name] = values.get(name, 0) + int(sample.value)
    return values
