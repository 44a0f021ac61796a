"""Logging: one line per event, the request id in each, through structlog over the standard library.

Every process of a part appends to that part's file under `storage/logs`; `logrotate` may move the file away at any time.
"""

import logging
import re
import sys
from pathlib import Path
from typing import Any, Final

import structlog
from gunicorn.glogging import Logger as GunicornLoggerBase
from structlog.typing import EventDict, Processor, WrappedLogger

from app.config import Settings, load_settings
from app.log_output import LogOutput


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


# Without the machinery of the standard library's loggers, which took several times as long as the line: a recognition has ten.
_LEVELS: Final = {
    name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error", "critical")
} | {"exception": logging.ERROR}


class _Log:
    """The log of this process: what it renders, from which level on, and where it goes."""

    def __init__(self, output: LogOutput, render: Processor, level: int) -> None:
        self.output = output
        self.level = level
        self._render = render

    def write(self, event: EventDict, level: int) -> None:
        """A line; the text is made when it is written."""
        self.output.write(lambda: str(self._render(None, "", event)), at_once=level >= logging.WARNING)


# Loggers are modules' own, and made before anybody knows where lines go.
_log: _Log | None = None


class _Lines:
    """What structlog takes for a logger: hands each event to the process's log, which may be another one by now."""

    def debug(self, event: EventDict) -> None:
        """An event of that level."""
        if _log is not None:
            _log.write(event, _LEVELS[event["level"]])

    info = warning = error = critical = exception = debug


class _Foreign(logging.Handler):
    """Hands what the standard library's loggers are told to the process's log."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record, as text."""
        try:
            text = self.format(record)  # now: it is the formatter that says what time it is
        except Exception:  # of a library that has got its arguments wrong
            self.handleError(record)
            return
        if _log is not None:
            _log.output.write(lambda: text, at_once=record.levelno >= logging.WARNING)


def _drop_below_level(_logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    if _log is not None and _LEVELS[name] < _log.level:
        raise structlog.DropEvent
    return event


def _as_it_is(_logger: WrappedLogger, _name: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, Any]]:
    return (event,), {}


# One list for good: loggers keep it, and whoever listens to them (`structlog.testing`) changes it in place.
_PROCESSORS: Final[list[Processor]] = [_drop_below_level, *_SHARED, _as_it_is]


def configure_logging(settings: Settings, log_file: Path | None = None, *, level: str | None = None) -> None:
    """Send structlog's lines, and those of the standard library's loggers, to `log_file`, or to standard error.

    Idempotent; makes the file where it does not exist.
    """
    global _log
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
    renderer: Processor = _message_first if settings.log_format == "console" else structlog.processors.JSONRenderer()
    handler = _Foreign()
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
    before, _log = _log, _Log(LogOutput(log_file), renderer, root.level)
    if before is not None:
        before.output.close()
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )


def hold_lines() -> None:
    """Keep the lines of this thread together, until `release_lines` or a warning: making and writing one takes a while, and
    whoever asked need not wait for it. A line that comes a second later, or after that, takes all along.
    """
    if _log is not None:
        _log.output.hold()


def release_lines() -> None:
    """Write the lines of this thread that were kept back."""
    if _log is not None:
        _log.output.release()


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
