"""Aggregation in the plane to a ring, a disk and an annulus, whose energies are known exactly.

Particles, a network and a grid minimise F = 1/2 int int W(x - y) dmu dmu + int V dmu from
N(0, 0.25^2 I), with the three kernels of Bonet et al. (2022), arXiv 2110.10972, section 4. There is
no entropy, so any family can carry the flow. The annulus is an equilibrium of symmetric measures
only (see ``problems.annulus``), so its runs start centred and are short. ``runs`` hold the final
energy of each family and problem, its relative error, and the radii between which the mass lies.

Energies are those of the measures, by the same formula where possible:

- mlp: over pairs of 10,000 fresh draws, unbiased; standard error over ten such draws.
- particles: over pairs of different particles, since the kernel of disk and annulus is infinite
  at 0. The least energy of n particles is below the minimum over measures by about log(n) / n. The
  ring's kernel is finite, and pairs of a particle with itself count.
- grid: mass is spread evenly over cells, whose mean interaction with themselves replaces W(0).
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from matplotlib.figure import Figure

import swjko
from benchmarks import common
from benchmarks.common import Solve
from swjko import flows, problems

START_SCALE = 0.25
PROBLEMS = {"ring": problems.ring, "disk": problems.disk, "annulus": problems.annulus}
# Final energies of the multilayer perceptron of Bonet et al. (2022).
PUBLISHED = {"ring": -0.0831, "disk": 0.375, "annulus": 0.455}


class Sizes(NamedTuple):
    """Numbers of runs and points, and the settings of each family."""

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
    """A family at mu_0 and the functional that it minimises."""

    family: swjko.Family
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
FLAGS = common.Flags()


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else DEFAULT
    rows, clouds = [], {}
    for name in PROBLEMS:
        for family in FAMILIES:
            for seed in range(sizes.seeds if family != "grid" else 1):
                row, cloud = solve(name, family, seed, sizes)
                rows.append(row)
                clouds.setdefault((name, family), cloud)
            common.show(f"{name}, {family}", rows[-1])
    content = {"quick": args.quick, "settings": sizes, "published": PUBLISHED, "runs": rows}
    common.finish(args, content, ("", _figure(clouds)))


def solve(
    name: str, family_name: str, seed: int, sizes: Sizes
) -> tuple[dict[str, Any], swjko.Cloud]:
    """Report of one run for the JSON, and the final measure as a cloud."""
    problem = PROBLEMS[name]()
    start_key, solve_key, energy_key = jax.random.split(jax.random.key(seed), 3)
    family, functional = FAMILIES[family_name](name, problem, start_key, sizes)
    settings: Solve = getattr(sizes, family_name)
    if name == "annulus":
        length = {"num_steps": sizes.annulus_steps, "step_size": sizes.annulus_step_size}
        settings = settings._replace(**length)
    scheme = settings.scheme(family, functional, direction_fn=swjko.recommended_directions)
    solution = swjko.solve(solve_key, scheme, settings.num_steps, progress=False, throw=False)
    params, num = solution.state.params, sizes.evaluated
    if family.is_finite:
        clouds = [swjko.sample(family, params, energy_key, settings.num_samples)]
    else:
        keys = jax.random.split(energy_key, 10)
        clouds = [swjko.sample(family, params, key, num) for key in keys]
        functional = _with_kernel(functional, lambda own: swjko.interaction(own.w, block_size=500))
    found = common.mean_and_error(float(_evaluate(functional, energy_key, c)) for c in clouds)
    energy: Any = found["mean"]
    exact = problem.exact_energy
    return {
        "problem": name,
        "family": family_name,
        "seed": seed,
        "energy": energy,
        "exact": exact,
        "standard_error": found["standard_error"],
        "relative_error": (energy - exact) / abs(exact),
        "radii": _radii(clouds[0]),
        "exact_radii": problem[2:],
        "result": solution.result.name,
        **solution.timing._asdict(),
    }, clouds[0]


@jax.jit
def _evaluate(functional, key, cloud):
    return functional(key, cloud)


def _particles(name: str, problem: problems.Equilibrium, key: Any, sizes: Sizes) -> Setup:
    points = START_SCALE * jax.random.normal(key, (sizes.num_particles, 2))
    family = swjko.particles(points - jnp.mean(points, axis=0, keepdims=True))
    if name != "ring":
        return Setup(family, problem.functional)

    def with_self_pairs(own: Any) -> Any:
        return swjko.interaction(own.w, self_pairs=True)

    return Setup(family, _with_kernel(problem.functional, with_self_pairs))


def _mlp(name: str, problem: problems.Equilibrium, key: Any, sizes: Sizes) -> Setup:
    del name, key
    family = flows.mlp(2, 2, width=sizes.width, init_scale=START_SCALE)
    return Setup(family, problem.functional)


def _grid(name: str, problem: problems.Equilibrium, key: Any, sizes: Sizes) -> Setup:
    del key
    half = 0.8 if name == "ring" else 1.2
    side = 2 * half / sizes.cells
    line = -half + side * (jnp.arange(sizes.cells) + 0.5)
    points = jnp.stack(jnp.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = jax.nn.softmax(-0.5 * jnp.sum(points**2, axis=1) / START_SCALE**2)

    def of_cells(own: Any) -> Any:
        kernel = Partial(_kernel_of_cells, own.w, _mean_within_cell(own.w, side), side)
        return swjko.interaction(kernel, self_pairs=True)

    family = swjko.grid(points, side**2, weights=weights)
    return Setup(family, _with_kernel(problem.functional, of_cells))


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
    """E W(U - U') for independent uniform points U, U' of a cell.

    This is the midpoint rule for the triangular density of each coordinate of U - U'. The number of
    midpoints is even, so none is at 0, where W may be infinite.
    """
    t = (np.arange(num) + 0.5) / num * 2 - 1
    density = (1 - np.abs(t)) * 2 / num
    points = side * np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 2)
    values = np.asarray(jax.vmap(kernel)(jnp.asarray(points, float)), np.float64)
    return float(np.outer(density, density).ravel() @ values)


def _radii(cloud: swjko.Cloud) -> list[float]:
    """The radii below and above which a hundredth of the mass lies."""
    radii = np.linalg.norm(np.asarray(cloud.points, np.float64), axis=1)
    equal = cloud.weights is None
    weights = np.ones(len(radii)) if equal else np.asarray(cloud.weights, np.float64)
    order = np.argsort(radii)
    levels = np.cumsum(weights[order]) / np.sum(weights)
    return [float(radii[order][np.searchsorted(levels, level)]) for level in (0.01, 0.99)]


def _figure(clouds: dict[tuple[str, str], swjko.Cloud]) -> Figure:
    """The final measures with the exact radii, a column per problem and a row per family."""
    figure, axes = common.new_figure(8.0, 8.4, len(FAMILIES), len(PROBLEMS))
    angles = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    for row, family in enumerate(FAMILIES):
        for column, (name, problem) in enumerate(PROBLEMS.items()):
            axis, cloud, equilibrium = axes[row, column], clouds[name, family], problem()
            points = np.asarray(cloud.points)[:2000]
            if cloud.weights is None:
                axis.plot(*points.T, ".", markersize=1.5, color="C0")
            else:
                weights = np.asarray(cloud.weights)[:2000]
                axis.scatter(*points.T, s=12 * weights / weights.max(), color="C0", linewidths=0)
            for radius in {equilibrium.inner_radius, equilibrium.outer_radius} - {0.0}:
                axis.plot(*radius * circle, color="C1", linewidth=0.8)
            half = 1.25 if name != "ring" else 0.85
            axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
            axis.set_title(f"{name}, {family}", fontsize=9)
            axis.tick_params(labelsize=7)
            axis.locator_params(nbins=5)
    figure.supxlabel("first coordinate")
    figure.supylabel("second coordinate")
    title = "final measures (dots; areas are weights on the grid) and exact radii (lines)"
    figure.suptitle(title, fontsize=10)
    return figure
