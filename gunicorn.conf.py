"""Gunicorn for the web: `gthread` workers without any model runtime."""

import gc
import math
import os
import shutil
import socket
import struct

from gunicorn.http import parser

from app.api import load_code
from app.config import SettingsError, load_settings, reload_settings

# Before anything imports NumPy, whose BLAS would start a thread for each core: workers are forked from here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

try:
    # SIGHUP executes this file again. Below a supervisor, this reads what that has accepted.
    _settings = reload_settings()
except SettingsError:
    if not load_settings.cache_info().currsize:
        raise
    _settings = load_settings()  # they are broken now: the web goes on with what it has

wsgi_app = "wsgi:app"
proc_name = "facedex-web"
bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
worker_class = "app.server.web_worker.WebWorker"
workers = _settings.web_workers
threads = _settings.web_threads
preload_app = False  # a database pool may exist only after the fork
# gthread workers are silent only when the process itself is stuck; a request has its own deadline.
timeout = math.ceil(_settings.request_deadline_s) + 30
graceful_timeout = math.ceil(_settings.request_deadline_s) + 5
keepalive = 5
limit_request_line = 8190  # two names of 200 characters, percent-encoded, fit
control_socket_disable = True  # it would start a thread in the arbiter, before the forks
logger_class = "app.logs.WebLogger"
forwarded_allow_ips = ",".join(
    _settings.trusted_proxies
)  # by whom X-Forwarded-Proto is believed: it makes cookies Secure
forwarder_headers = ""  # SCRIPT_NAME and PATH_INFO are nobody's to send
# A client that stops sending in the middle of a request, or reading in the middle of its answer, is given up, so that it does
# not hold a thread for good.
_SILENT_FOR_S = 15

# A request may be answered before it is read: a wrong key, a body that is too long. So much of the rest is read all the
# same, within Gunicorn's own limit of time, and the client can use the connection again; after more it is closed, which the
# answer cannot say. Gunicorn has no setting for it, and its 64 KiB are less than a photo.
parser._DRAIN_MAX_BYTES = 4 * 1024 * 1024

# Before anything imports prometheus_client: it reads this once. Counters start anew with the service.
_metrics_dir = _settings.run_dir / "metrics"
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_dir)


def on_starting(_server):
    """Counters of the last run belong to processes that are gone. The code is loaded once, for all workers to share."""
    shutil.rmtree(_metrics_dir, ignore_errors=True)
    _metrics_dir.mkdir(parents=True, mode=0o700)
    # Modules only: whatever has threads or connections is made by `create_app` or later, in the workers.
    load_code()
    # What is there now stays: no collection looks at it again, which would take copies of it in each worker, half a second of
    # a core at its end alone.
    gc.freeze()


def when_ready(server):
    """Accepted connections have the listener's timeouts (Linux: they are inherited); Gunicorn has no such setting."""
    for listener in server.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _SILENT_FOR_S, 0))
        # Not SO_SNDTIMEO: that begins anew with each piece of an answer for which the kernel still has room.
        listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_FOR_S * 1000)


def child_exit(_server, worker):
    """Keep a dead worker's counters, drop its gauges."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
