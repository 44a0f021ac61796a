"""Logging: one line per event, the request id in each, through structlog over the standard library.

Every process of a part appends to that part's file under `storage/logs`; `logrotate` may move the file away at any time.
"""

import logging
import logging.handlers
import re
import sys
from pathlib import Path
from typing import Any, Final

import structlog
from gunicorn.glogging import Logger as GunicornLoggerBase
from structlog.typing import EventDict, Processor, WrappedLogger

from app.config import Settings, load_settings


def _message_first(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    """`time [level] message key=value …`: operators grep for the message, so nothing stands inside it."""
    head = f"{event.pop('timestamp')} [{event.pop('level')}] {_one_line(event.pop('event'))}"
    event.pop("logger", None)
    exception = event.pop("exception", None)
    tail = "".join(f" {key}={_quoted(value)}" for key, value in sorted(event.items()) if value not in ("", None))
    return head + tail + (f"\n{exception}" if exception else "")


def _one_line(value: object) -> str:
    """Names may hold any text: a line break in one must not look like a log line of its own."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _quoted(value: object) -> str:
    text = _one_line(value)
    return f'"{text}"' if " " in text else text


# PostgreSQL's details of an error are values of the row; our own messages quote what a client sent.
_DETAILS: Final = re.compile(r"^(DETAIL|CONTEXT): .*\n?", re.MULTILINE)
_QUOTED: Final = re.compile(r"""^(app\.errors\.\w+: [^'"\n]*)['"].*['"]""", re.MULTILINE)


def _without_names(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """A traceback without what may be the name of a person."""
    if isinstance(event.get("exception"), str):
        event["exception"] = _QUOTED.sub(r"\1'…'", _DETAILS.sub("", event["exception"]))
    return event


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    _without_names,
]


def configure_logging(settings: Settings, log_file: Path | None = None, *, level: str | None = None) -> None:
    """Send structlog and the standard library's loggers to `log_file`, or to standard error.

    Idempotent; makes the file where it does not exist.
    """
    handler: logging.Handler
    if log_file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log_file.touch(mode=0o600)
        handler = logging.handlers.WatchedFileHandler(log_file, encoding="utf-8", errors="backslashreplace")
    renderer: Processor = _message_first if settings.log_format == "console" else structlog.processors.JSONRenderer()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level or settings.log_level)
    # Alembic tells its own workings at INFO.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


# How Gunicorn begins what it says of requests that it cannot read; address and reason follow, then what the client sent.
_REFUSED: Final = "Invalid request from ip="


class WebLogger(GunicornLoggerBase):  # type: ignore[misc]
    """Gunicorn's own messages go where the application's go."""

    def setup(self, _cfg: Any) -> None:
        settings = load_settings()
        configure_logging(settings, settings.logs_dir / "gunicorn-error.log")
        for logger in (self.error_log, self.access_log):
            logger.propagate = True
            logger.setLevel(settings.log_level)

    def exception(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """As an error with its traceback, but for a client that was given up: it sent, or read, nothing for too long.

        So a connection ends at its SO_RCVTIMEO or TCP_USER_TIMEOUT, which `gunicorn.conf.py` sets.
        """
        if isinstance(sys.exc_info()[1], BlockingIOError | TimeoutError):
            self.info("[WEB] A client was given up: it neither sent nor read anything")
        else:
            # Gunicorn adds the request's address, which holds names of persons.
            super().exception(str(msg).partition(" %s")[0], **kwargs)

    def debug(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Nothing: Gunicorn tells the address of every request, which holds names of persons."""

    def warning(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Without what a client sent, where that is why it was refused: a header may be its key."""
        text = str(msg)
        if text.startswith(_REFUSED):
            text = ": ".join(text.split(": ", 2)[:2])
        super().warning(text, *args, **kwargs)

    def access(self, *_args: Any, **_kwargs: Any) -> None:
        """The application writes its own line per request, with the request id."""

    def reopen_files(self) -> None:
        """Nothing to do: the handler notices that its file was moved."""
