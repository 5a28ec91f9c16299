"""Logs: one JSON object per line, the same from our code, gunicorn, SQLAlchemy, Alembic and APScheduler.

`{"time": "2026-11-22T02:03:04.567890Z", "level": "info", "event": "…", "process": "web", "request_id": "…", …}`.
People appear by id only; nothing here writes names, addresses or secrets.
"""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# What others say below this level is of no use to an operator: APScheduler tells of every run of every job.
QUIET = {"apscheduler": "WARNING", "sqlalchemy": "WARNING", "werkzeug": "WARNING"}
# JSON leaves these as they are, but log readers break lines at them.
LINE_BREAKS = {ord(c): f"\\u{ord(c):04x}" for c in "\x7f\x85\u2028\u2029"}


def configure_logs(process: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send everything this process logs to `stream` (standard output), one JSON object per line.

    `process` names the process in each line ('web', 'scheduler', 'command'). An exception that ends the process and
    Python's warnings become lines too.
    """
    logging.config.dictConfig(log_settings(process, level, stream))
    logging.captureWarnings(True)
    sys.excepthook = _log_the_end
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_for_every_line(process),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def log_settings(process: str, level: str = "INFO", stream: TextIO | None = None) -> dict[str, Any]:
    """The same as a dictionary for logging.config: gunicorn takes it before there is an app (config/gunicorn.py)."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": _formatter, "process": process}},
        "handlers": {
            "lines": {"class": "logging.StreamHandler", "formatter": "json", "stream": stream or "ext://sys.stdout"}
        },
        "root": {"level": level, "handlers": ["lines"]},
        "loggers": {
            **{name: {"level": quiet, "propagate": True} for name, quiet in QUIET.items()},
            # gunicorn takes propagation away from its own loggers, so they hold the handler themselves
            "gunicorn.error": {"level": level, "handlers": ["lines"], "propagate": False},
            "gunicorn.access": {"level": "WARNING", "handlers": ["lines"], "propagate": False},
        },
    }


def _formatter(process: str) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_for_every_line(process), structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_one_line),
        ],
    )


def _for_every_line(process: str) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _naming(process),
    ]


def _naming(process: str) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    def name_the_process(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        line["process"] = process
        return line

    return name_the_process


def _one_line(line: EventDict, **options: Any) -> str:
    first = {key: line[key] for key in ("time", "level", "event") if key in line}
    return json.dumps({**first, **line}, ensure_ascii=False, default=str).translate(LINE_BREAKS)


def _log_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger("process").critical("ended by an exception", exc_info=(kind, error, trace))
