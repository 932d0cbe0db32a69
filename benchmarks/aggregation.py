"""Aggregation in the plane to a ring, a disk and an annulus, whose energies are known exactly: by particles, a network and a grid.

F = 1/2 int int W(x - y) dmu dmu + int V dmu from N(0, 0.25^2 I), the three kernels of Bonet et al. (2022), arXiv 2110.10972, section 4;
no entropy, so that any family can carry the flow. The annulus is an equilibrium of symmetric measures only (see ``problems.annulus``): its
runs start centred, and are short. ``runs`` hold the final energy of each family and problem, its relative error and the
radii between which its mass lies, beside the exact ones.

Energies are those of the measures, by the same formula for every family where that is possible:

- mlp: over pairs of 10,000 fresh draws, unbiased; standard error over ten such draws;
- particles: over pairs of different particles, since the kernel of disk and annulus is infinite at 0; n particles of least energy have
  less than the minimum over measures, by about log(n) / n. The ring's kernel is finite and pairs of a particle with itself count;
- grid: mass spread evenly over cells, whose mean interaction with themselves replaces the kernel at 0.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import swjko
from benchmarks import common
from benchmarks.common import Solve
from swjko import flows, problems

START_SCALE = 0.25
PROBLEMS: dict[str, Callable[[], problems.Equilibrium]] = {
    "ring": problems.ring,
    "disk": problems.disk,
    "annulus": problems.annulus,
}
# Final energies of Bonet et al. (2022): multilayer perceptron.
PUBLISHED = {"ring": -0.0831, "disk": 0.375, "annulus": 0.455}


class Sizes(NamedTuple):
    seeds: int
    num_particles: int
    cells: int
    evaluated: int
    width: int
    annulus_steps: int
    annulus_step_size: float
    particles: Solve
    mlp: Solve
    grid: Solve


class Setup(NamedTuple):
    """A family at mu_0, how it is solved, and the functional that it minimises."""

    family: swjko.Family
    settings: Solve
    functional: Any


DEFAULT = Sizes(
    seeds=3,
    num_particles=1000,
    cells=36,
    evaluated=10_000,
    width=64,
    annulus_steps=15,
    annulus_step_size=0.2,
    particles=Solve(25, 0.4, 60, 1000, 32, 2e-2),
    mlp=Solve(25, 0.4, 100, 512, 32, 3e-3, 20),
    grid=Solve(25, 0.4, 60, 36 * 36, 32, 1e-1),
)
QUICK = Sizes(
    seeds=1,
    num_particles=64,
    cells=8,
    evaluated=200,
    width=8,
    annulus_steps=2,
    annulus_step_size=0.2,
    particles=Solve(2, 0.4, 10, 64, 8, 2e-2),
    mlp=Solve(2, 0.4, 10, 64, 8, 3e-3, 2),
    grid=Solve(2, 0.4, 10, 64, 8, 1e-1),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick",
        action="store_true",
        help="everything at reduced size, to see that it runs; written to runs/benchmarks",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for JSON and PNG (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else DEFAULT
    directory = Path(args.out or (Path("runs/benchmarks") if args.quick else common.RESULTS))
    rows, clouds = [], {}
    for name in PROBLEMS:
        for family in FAMILIES:
            for seed in range(sizes.seeds if family != "grid" else 1):
                row, cloud = solve(name, family, seed, sizes)
                rows.append(row)
                clouds.setdefault((name, family), cloud)
            print(f"{name}, {family}: {common.finite_json(rows[-1])}", flush=True)
    print(
        common.write_results(
            "aggregation",
            {"quick": args.quick, "settings": sizes, "published": PUBLISHED, "runs": rows},
            directory,
        )
    )
    _figure(clouds).savefig(directory / "aggregation.png", dpi=150)
    return 0


def solve(
    name: str, family_name: str, seed: int, sizes: Sizes
) -> tuple[dict[str, Any], swjko.Cloud]:
    """One run: what the JSON says of it, and the final measure as a cloud."""
    problem = PROBLEMS[name]()
    start_key, solve_key, energy_key = jax.random.split(jax.random.key(seed), 3)
    setup = FAMILIES[family_name](name, problem, start_key, sizes)
    if name == "annulus":
        setup = setup._replace(
            settings=setup.settings._replace(
                num_steps=sizes.annulus_steps, step_size=sizes.annulus_step_size
            )
        )
    scheme = setup.settings.scheme(
        setup.family, setup.functional, direction_fn=swjko.recommended_directions
    )
    solution = swjko.solve(solve_key, scheme, setup.settings.num_steps, progress=False, throw=False)
    energies, cloud = _energies(energy_key, setup, solution.state.params, sizes)
    energy, exact = float(np.mean(energies)), problem.exact_energy
    row: dict[str, Any] = {
        "problem": name,
        "family": family_name,
        "seed": seed,
        "energy": energy,
        "exact": exact,
    }
    row |= {
        "standard_error": float(np.std(energies, ddof=1) / math.sqrt(len(energies)))
        if len(energies) > 1
        else None
    }
    row |= {
        "relative_error": (energy - exact) / abs(exact),
        "radii": _radii(cloud),
        "exact_radii": problem[2:],
    }
    row |= {"result": solution.result.name, **solution.timing._asdict()}
    return row, cloud


def _particles(name: str, problem: problems.Equilibrium, key: Any, sizes: Sizes) -> Setup:
    points = START_SCALE * jax.random.normal(key, (sizes.num_particles, 2))
    points = points - jnp.mean(points, axis=0, keepdims=True)
    functional = (
        _with_kernel(problem.functional, lambda own: swjko.interaction(own.w, self_pairs=True))
        if name == "ring"
        else problem[0]
    )
    return Setup(swjko.particles(points), sizes.particles, functional)


def _mlp(name: str, problem: problems.Equilibrium, key: Any, sizes: Sizes) -> Setup:
    del name, key
    family = flows.mlp(2, 2, width=sizes.width, init_scale=START_SCALE)
    return Setup(family, sizes.mlp, problem.functional)


def _grid(name: str, problem: problems.Equilibrium, key: Any, sizes: Sizes) -> Setup:
    del key
    half = 0.8 if name == "ring" else 1.2
    side = 2 * half / sizes.cells
    line = -half + side * (jnp.arange(sizes.cells) + 0.5)
    points = jnp.stack(jnp.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = jax.nn.softmax(-0.5 * jnp.sum(points**2, axis=1) / START_SCALE**2)
    functional = problem.functional

    def of_cells(own: Any) -> Any:
        within = _mean_within_cell(own.w, side)
        kernel = Partial(_kernel_of_cells, own.w, within, side)
        return swjko.interaction(kernel, self_pairs=True)

    return Setup(
        swjko.grid(points, side**2, weights=weights), sizes.grid, _with_kernel(functional, of_cells)
    )


FAMILIES: dict[str, Callable[[str, problems.Equilibrium, Any, Sizes], Setup]] = {
    "particles": _particles,
    "mlp": _mlp,
    "grid": _grid,
}


def _with_kernel(functional: Any, change: Callable[[Any], Any]) -> Any:
    """The functional with its interaction changed, alone or as the first term of a sum."""
    if hasattr(functional, "w"):
        return change(functional)
    (first, *others), coefs = functional.functionals, functional.coefs
    return swjko.weighted_sum(*zip(coefs, (change(first), *others), strict=True))


def _kernel_of_cells(kernel, within, side, difference):
    same = jnp.sum(difference**2) < (side / 2) ** 2
    return jnp.where(same, within, kernel(jnp.where(same, side, difference)))


def _mean_within_cell(kernel: Any, side: float, num: int = 200) -> float:
    """E W(U - U') for independent uniform points of a cell: the midpoint rule for the triangular density of each coordinate of U - U'.

    An even number of midpoints keeps away from 0, where W may be infinite.
    """
    t = (np.arange(num) + 0.5) / num * 2 - 1
    density = (1 - np.abs(t)) * 2 / num
    points = jnp.asarray(
        side * np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 2), float
    )
    return float(
        np.outer(density, density).ravel() @ np.asarray(jax.vmap(kernel)(points), np.float64)
    )


def _energies(key: Any, setup: Setup, params: Any, sizes: Sizes) -> tuple[np.ndarray, swjko.Cloud]:
    """One energy of the whole measure where it is finite, ten estimates else; and the measure, or draws of it."""
    family = setup.family
    if family.is_finite:
        cloud = swjko.sample(family, params, key, setup.settings.num_samples)
        return np.array([float(_evaluate(setup.functional, key, cloud))]), cloud
    clouds = [
        swjko.sample(family, params, part, sizes.evaluated) for part in jax.random.split(key, 10)
    ]
    functional = _with_kernel(
        setup.functional, lambda own: swjko.interaction(own.w, block_size=500)
    )
    return np.array([float(_evaluate(functional, key, cloud)) for cloud in clouds]), clouds[0]


@jax.jit
def _evaluate(functional, key, cloud):
    return functional(key, cloud)


def _radii(cloud: swjko.Cloud) -> list[float]:
    """Between which all but a hundredth of the mass on either side lies."""
    radii = np.linalg.norm(np.asarray(cloud.points, np.float64), axis=1)
    weights = (
        np.full(len(radii), 1.0) if cloud.weights is None else np.asarray(cloud.weights, np.float64)
    )
    order = np.argsort(radii)
    levels = np.cumsum(weights[order]) / np.sum(weights)
    return [float(radii[order][np.searchsorted(levels, level)]) for level in (0.01, 0.99)]


def _figure(clouds: dict[tuple[str, str], swjko.Cloud]) -> Any:
    """The final measures, one column for each problem and one row for each family, with the exact radii."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(FAMILIES), len(PROBLEMS), squeeze=False)
    angles = np.linspace(0, 2 * np.pi, 200)
    for row, family in enumerate(FAMILIES):
        for column, name in enumerate(PROBLEMS):
            axis, cloud, problem = axes[row, column], clouds[name, family], PROBLEMS[name]()
            points = np.asarray(cloud.points)[:2000]
            if cloud.weights is None:
                axis.plot(*points.T, ".", markersize=1.5, color="C0")
            else:
                weights = np.asarray(cloud.weights)[:2000]
                axis.scatter(*points.T, s=12 * weights / weights.max(), color="C0", linewidths=0)
            for radius in {problem.inner_radius, problem.outer_radius} - {0.0}:
                axis.plot(
                    radius * np.cos(angles), radius * np.sin(angles), color="C1", linewidth=0.8
                )
            half = 1.25 if name != "ring" else 0.85
            axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
            axis.set_title(f"{name}, {family}", fontsize=9)
            axis.set_xlabel("first coordinate", fontsize=8)
            axis.set_ylabel("second coordinate", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.locator_params(nbins=5)
    figure.suptitle(
        "final measures (dots; areas are weights on the grid) and exact radii (lines)", fontsize=10
    )
    return figure
