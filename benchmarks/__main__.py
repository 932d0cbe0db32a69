"""Run one benchmark: ``python -m benchmarks NAME`` writes ``benchmarks/results/NAME.json``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks
from swjko.cli.compilation_cache import use_compilation_cache

# Command to module and one-line help. ``benchmarks.common`` says what a module defines.
BENCHMARKS = {
    "ablation": ("benchmarks.ablation", "what each choice of the method is worth"),
    "aggregation": ("benchmarks.aggregation", "interaction energies with known equilibria"),
    "densities": ("benchmarks.densities", "densities of tables by slice matching and coupling"),
    "directions": ("benchmarks.directions", "error of the distance for each kind of directions"),
    "first_draw": ("benchmarks.first_draw", "seconds from import to a first result"),
    "fokker_planck": ("benchmarks.fokker_planck", "flows to Gaussians against exact laws"),
    "generate": ("benchmarks.generated_images", "what the command line draws of MNIST, and scores"),
    "generators": ("benchmarks.generators", "one-step generators by drift and by SW-JKO"),
    "gpu": ("benchmarks.gpu", "the distance, an update and many flows on a GPU"),
    "gpu_programs": ("benchmarks.gpu_programs", "launches and memory of programs for an H100"),
    "images": ("benchmarks.images.benchmark", "images generated from a data set, and scores"),
    "kernel": ("benchmarks.kernel", "speed, memory and accuracy of the distance"),
    "logistic_regression": (
        "benchmarks.posteriors.logistic_regression",
        "posteriors compared with NUTS",
    ),
    "mixtures": ("benchmarks.mixtures", "flows to mixtures of Gaussians, for each family"),
    "native": ("benchmarks.native", "what the sorts of swjko-native are worth"),
    "ornstein_uhlenbeck": ("benchmarks.ornstein_uhlenbeck", "SW-JKO against JKO-ICNN"),
    "particles": ("benchmarks.particles", "particle methods by updates and by seconds"),
    "user_data": ("benchmarks.user_data.benchmark", "tables and samples that people have"),
    "sbi": ("benchmarks.sbi", "posteriors of a simulator beside neural posterior estimation"),
    "sampling": ("benchmarks.sampling.benchmark", "samplers on the targets of the field"),
    "proximity": ("benchmarks.sampling.proximity", "modes held against the step size"),
    "spheres": ("benchmarks.spheres", "speed of the distances on circle and sphere"),
    "variants": ("benchmarks.variants", "speed of unbalanced transport and of plans from slices"),
    "update": ("benchmarks.update", "one update of a step, and the seconds to compile it"),
    "scaling": ("benchmarks.scaling", "flows per second, and the cost of one flow by its sizes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the benchmark that it names; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--quick" in argv:
        # Other runs record the seconds of compilation.
        use_compilation_cache()
    # It imports JAX, which reads the place of its cache then.
    from benchmarks.common import RESULTS, add_flags

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    subparsers = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, (path, text) in BENCHMARKS.items():
        subparser = subparsers.add_parser(
            name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if argv[:1] == [name]:
            module = importlib.import_module(path)
            subparser.description = module.__doc__
            subparser.set_defaults(main=module.main)
            if hasattr(module, "FLAGS"):
                add_flags(subparser, module.FLAGS)
            if hasattr(module, "add_arguments"):
                module.add_arguments(subparser)
    args = parser.parse_args(argv)
    args.directory = Path(args.out or ("runs/benchmarks" if args.quick else RESULTS))
    return args.main(args) or 0


if __name__ == "__main__":
    sys.exit(main())
