"""The command line: ``python -m swjko``."""

import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence

from swjko.cli.compilation_cache import use_compilation_cache
from swjko.cli.config import with_config
from swjko.cli.job import Job, prepare
from swjko.cli.options import parser
from swjko.cli.terminal import (
    RunError,
    UsageError,
    first_line,
    log_lines,
    say,
    say_error,
    silence,
    tell,
)
from swjko.data.errors import DataError
from swjko.data.tables import require_extra

# What a shell reports of a program that wrote to a pipe without a reader.
_CLOSED_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: Arguments; None takes those of the process.

    Returns:
      The exit code: 0 on success, 1 if a flow failed, 2 if the input cannot be used, 130 after
      Ctrl-C, 141 if nobody reads the output any more.
    """
    with warnings.catch_warnings(), log_lines():
        # Print warnings as one line, without their place in the code.
        warnings.showwarning = _show_warning
        try:
            code = _main(argv)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except BrokenPipeError:
            silence()
            return _leave(_CLOSED_PIPE)
        except OSError as error:  # such as a full disk behind stdout
            say_error(error)
            silence()
            return _leave(2)


def _show_warning(message: Warning | str, *_: object) -> None:
    say(str(message))


def _main(argv: Sequence[str] | None) -> int:
    try:
        options = with_config(parser().parse_args(argv))
        if options.completion is not None:
            tell(require_extra("shtab").complete(parser("swjko"), options.completion))
            return 0
        _require_extras()
        job = prepare(options)
        if not options.no_cache:
            use_compilation_cache()
        return _execute(job)
    except SystemExit as finished:  # --help, or SIGTERM during a run with checkpoints
        return int(finished.code or 0)
    except BrokenPipeError:
        raise
    except (UsageError, DataError, ImportError, OSError) as error:
        return _fail(error, 2)
    except (RunError, MemoryError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)


def _execute(job: Job) -> int:
    """Import JAX, which takes seconds, and run the job."""
    if "matplotlib" not in sys.modules:
        # Figures are only written to files, whatever is set for a notebook or a screen.
        os.environ["MPLBACKEND"] = "agg"
    try:
        import jax  # noqa: F401
    except ValueError as error:  # such as JAX_ENABLE_X64=maybe
        raise UsageError(f"JAX cannot be imported: {first_line(error)}") from error
    from swjko.cli.execute import execute

    return execute(job)


def _require_extras() -> None:
    missing = [module for module in ("matplotlib", "sklearn") if not _is_installed(module)]
    if missing:
        raise UsageError(
            f"the command line needs {' and '.join(missing)}. Run: pip install 'swjko[cli]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # the module is blocked, or was made by hand
        return sys.modules.get(module) is not None


def _fail(error: BaseException | str, code: int) -> int:
    say_error(error)
    return _leave(code)


def _leave(code: int) -> int:
    """Leave at once if this process is one of several; otherwise return the code."""
    distributed = sys.modules.get("swjko.distributed")
    if distributed is not None:
        distributed.leave(code)
    return code
