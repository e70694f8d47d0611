"""What aiohttp's server says, as metald logs it: a client that speaks no HTTP is one line, not a traceback."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError


class _Calm(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError | ConnectionError | TimeoutError):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "%s: %s", (record.getMessage(), type(error).__name__)
            record.exc_info = None
        return True


def logger() -> logging.Logger:
    """The logger to give to aiohttp's runner."""
    made = logging.Logger("metald.http.server")  # its own, so that no other program part shares the filter
    made.parent = logging.getLogger("metald")
    made.addFilter(_Calm())
    return made
