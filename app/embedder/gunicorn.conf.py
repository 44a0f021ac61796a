"""Gunicorn for the worker pool: `sync` workers, each with one model of its own, behind one shared, bounded queue."""

import faulthandler
import math
import threading

from app.config import load_settings

_settings = load_settings()

wsgi_app = "app.embedder.wsgi:application"
proc_name = "facedex-embedder"
bind = _settings.embedder_address.removeprefix("http://")
umask = 0o077  # the socket is for this user only
backlog = _settings.embedder_queue
workers = _settings.embedder_workers
worker_class = "sync"
preload_app = False  # a model session has threads: it may exist only after the fork
# A worker silent for longer is stuck: its client got its 504 at the deadline, and the worker is replaced.
timeout = math.ceil(_settings.request_deadline_s) + 2
graceful_timeout = math.ceil(_settings.request_deadline_s) + 2
max_requests = _settings.embedder_max_requests
max_requests_jitter = _settings.embedder_max_requests // 10
control_socket_disable = True  # it would start a thread in the arbiter, before the forks
logger_class = "app.logs.EmbedderLogger"

# The longest that loading a model may take; a worker that takes longer is replaced.
_LOAD_LIMIT_S = 120.0


def post_worker_init(worker):
    """Load the model before the first job is accepted."""
    faulthandler.enable()
    loaded = threading.Event()

    def heartbeat() -> None:
        # Gunicorn counts a worker that is still loading as stuck.
        for _ in range(int(_LOAD_LIMIT_S)):
            worker.notify()
            if loaded.wait(1.0):
                return

    thread = threading.Thread(target=heartbeat, name="load-heartbeat", daemon=True)
    thread.start()
    try:
        worker.wsgi.worker.ensure_loaded()
    finally:
        loaded.set()
        thread.join()
