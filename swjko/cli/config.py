"""Options from the report of another run: ``--config report.json``."""

import argparse
import csv
import io
import json
import stat
from pathlib import Path
from typing import Any

from swjko.cli.options import GENERATE, PROBLEMS, parser
from swjko.cli.settings import Settings
from swjko.cli.terminal import UsageError

_MOST_BYTES = 2**26
# What a report holds besides options, and the names of data that is not a file.
_RESULTS = ("num_draws", "shape", "devices", "processes")
_OWN_DATA = ("sklearn digits", "sklearn breast cancer")


def with_config(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options, with those that are not given taken from the report of ``--config``.

    Args:
      options: Parsed options.

    Raises:
      UsageError: If the report cannot be read, is of another problem, or holds unusable values.
    """
    if options.config is not None:
        where = f"--config {options.config}"
        problem, config = _read(Path(options.config), where)
        if options.problem not in (None, problem):
            raise UsageError(f"{where} is of {problem}; got the problem {options.problem}")
        # The flag of the intercept can only leave it out, so its default does not count as given.
        given = {
            name: value
            for name, value in vars(options).items()
            if value is not None and (name, value) != ("intercept", True)
        }
        try:
            options = parser().parse_args([problem, *_flags(config)])
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        vars(options).update(given)
    options.seed = options.seed or 0
    return options


def _read(path: Path, where: str) -> tuple[str, dict[str, Any]]:
    """Return the problem and the settings of a report."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise ValueError
        report = json.loads(path.read_bytes())
        problem, config = str(report["problem"]), dict(report["config"])
        known = (PROBLEMS | {"generate": GENERATE})[problem].options
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{where} must be the report.json of a run of this version") from error
    allowed = {*Settings._fields, *known, *_RESULTS, "seed", "flows"}
    if unknown := set(config) - allowed:
        raise UsageError(f"{where} has unknown settings: {', '.join(sorted(unknown))}")
    rate = config.pop("learning_rate", None)
    if rate != Settings._field_defaults["learning_rate"]:
        raise UsageError(f"{where} has the learning rate {rate!r}, which no option sets")
    return problem, config


def _flags(config: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in config.items():
        flag = f"--{name.replace('_', '-')}"
        if name in _RESULTS or value is None or value in _OWN_DATA:
            continue
        if name == "intercept":
            flags += [] if value else ["--no-intercept"]
        elif isinstance(value, bool):
            flags += [flag] if value else []
        elif isinstance(value, list):
            row = io.StringIO()
            csv.writer(row).writerow(value)
            flags.append(f"{flag}={row.getvalue().rstrip()}")
        else:
            flags.append(f"{flag}={value}")
    return flags
