"""What a command says on stderr while it works: lines for people, or one JSON object a line for machines.

It goes through the standard library's logging, so that what other libraries log and warn of takes the same way.
"""

from __future__ import annotations

import datetime
import io
import json
import logging
import sys
from types import TracebackType
from typing import Any, Literal, TextIO, cast

LogFormat = Literal["text", "json"]

EVENTS = {
    "waiting_for_nodes": "every minute, until the cluster has what `ray.min_gpus` and `ray.min_cpus` ask for",
    "round_begun": "workers begin on what is left; `num_members`",
    "slice_size": "images in a slice, by the measured speed; `slice_size`",
    "progress": "every 10 seconds; `num_done`, `num_planned`, `images_per_second`, `seconds_left`",
    "epoch": "of training has ended; `epoch`, `last` (what history.csv says of it), `best`",
    "slice_written": "a worker wrote the rows of a slice; `slice_id`, `num_rows`, `rejected` (images by status code)",
    "slice_committed": "its rows are in the table; `slice_id`, `rows_by_status`, `table_version`",
    "slice_adopted": "the same, of a slice that an earlier run wrote",
    "slice_begun_again": "a worker or its node was lost; `slice_id`, `num_begun` (21 ends the job)",
    "storage_retries": "requests to storage were made again; `count`",
    "nodes_lost": "nodes are gone, and what waited for them is planned anew",
    "archive_damaged": "an archive cannot be read to its end; `source_id`",
    "training_begun": "`num_epochs`",
    "usage": "where the time went, as in `--json`; `stage_seconds`, `utilisation`",
    "note": "something to look at, that ends nothing",
    "info": "anything else",
    "end": "the last line; `exit_code`, and the error in `message`",
}
"""What the lines in JSON say has happened, and the fields that they have beside those of every line."""

_LOGGER = logging.getLogger("skinvae")
_PREFIXES = {logging.WARNING: "note: ", logging.ERROR: "skinvae: "}
"""Of lines for people, by level."""

_run: dict[str, str | None] = {"run_id": None, "scoring_id": None}


def begin_run(run_id: str, *, scoring_id: str | None = None) -> None:
    """What is said from now on, by any thread, is about this run."""
    _run.update(run_id=run_id, scoring_id=scoring_id)


def say(message: str, *, event: str = "info", **fields: Any) -> None:
    """Something for whoever reads; `event` and `fields` are for machines. stdout is for results."""
    _log(logging.INFO, message, event, fields)


def note(message: str, *, event: str = "note", **fields: Any) -> None:
    """Something that should be looked at, and ends nothing."""
    _log(logging.WARNING, message, event, fields)


def tell(message: str, *, event: str, **fields: Any) -> None:
    """Something for machines: too much for a person to read along."""
    _log(logging.INFO, message, event, fields, is_for_people=False)


def fail(message: str, *, exit_code: int) -> None:
    """Why the command ends with this exit code."""
    _log(logging.ERROR, message, "end", {"exit_code": exit_code})


def use_format(log_format: LogFormat) -> None:
    """Of all that this process says from now on. In JSON, that is also what any library logs or warns of."""
    is_json = log_format == "json"
    _HANDLER.setFormatter(_JsonFormatter() if is_json else _TextFormatter())
    logging.captureWarnings(is_json)
    if is_json:
        logging.getLogger().addHandler(_HANDLER)
        sys.excepthook = _log_uncaught
    else:
        logging.getLogger().removeHandler(_HANDLER)
        sys.excepthook = sys.__excepthook__


def is_json() -> bool:
    """Whether stderr is for machines."""
    return isinstance(_HANDLER.formatter, _JsonFormatter)


def take_over(logger_name: str) -> None:
    """In JSON, let a library's logger that has handlers of its own use ours."""
    if is_json():
        logger = logging.getLogger(logger_name)
        logger.handlers, logger.propagate = [_HANDLER], False


def stray_output(logger_name: str) -> TextIO:
    """Where a library may print what is neither a result nor logged."""
    return cast(TextIO, _LoggedLines(logger_name)) if is_json() else sys.stderr


def _log(level: int, message: str, event: str, fields: dict[str, Any], *, is_for_people: bool = True) -> None:
    if is_for_people or is_json():
        _LOGGER.log(level, "%s", message, extra={"event": event, "fields": fields})


class _StderrHandler(logging.Handler):
    """Writes to what sys.stderr is at the time: a progress bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 as every handler of logging's own: a line that is lost ends no job
            self.handleError(record)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{_PREFIXES.get(record.levelno, '')}{record.getMessage()}"


class _JsonFormatter(logging.Formatter):
    """A dozen lines instead of a dependency: what libraries for this add, such as renaming of fields, nobody needs."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "message": record.getMessage().strip(),
            **_run,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _LoggedLines(io.TextIOBase):
    """A stream each of whose lines becomes a line of the log."""

    def __init__(self, logger_name: str) -> None:
        self._logger = logging.getLogger(logger_name)
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            self._logger.warning("%s", line)
        return len(text)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    _LOGGER.critical(
        "%s",
        f"{kind.__name__}: {error}",
        exc_info=(kind, error, traceback),
        extra={"event": "end", "fields": {"exit_code": 1}},
    )


_HANDLER = _StderrHandler()
_HANDLER.setFormatter(_TextFormatter())
_LOGGER.addHandler(_HANDLER)
_LOGGER.setLevel(logging.INFO)
_LOGGER.propagate = False
