"""Log lines of the three roles, for people or for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from dissmodel_platform.cli.echo import printable
from dissmodel_platform.settings import Settings


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message and, where there is one, the traceback."""
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content)


class TextLines(logging.Formatter):
    """One line each; what git, a server or a model said in it never steers the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, role, level, message and, where there is one, the traceback."""
        return printable(super().format(record))


def configure_logging(settings: Settings, role: str) -> None:
    """Send this process's log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(
            TextLines(f"%(asctime)s {role:<8} %(levelname)-7s %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for chatty in ("httpx", "procrastinate", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
