"""``python -m benchmarks NAME``: one measurement, written to ``benchmarks/results/NAME.json``."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

import benchmarks

# Modules beside the measurements that hold none.
_SHARED = {
    "__main__",
    "expectation_propagation",
    "image_classifier",
    "image_figures",
    "image_metrics",
    "image_settings",
    "image_summary",
    "posterior_start",
    "reliability_child",
    "reliability_processes",
    "report",
    "scaling_plan",
    "result_tables",
    "tables",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Every other module of this package is a subcommand: ``add_arguments(parser)`` says what it takes, ``main(args)`` measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    subparsers = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name not in _SHARED
    ):
        module = importlib.import_module(f"benchmarks.{name}")
        subparser = subparsers.add_parser(
            name, help=(module.__doc__ or "").splitlines()[0], description=module.__doc__
        )
        module.add_arguments(subparser)
        subparser.set_defaults(main=module.main)
    args = parser.parse_args(argv)
    return args.main(args) or 0


if __name__ == "__main__":
    sys.exit(main())
