"""Accuracy and speed of the foundation: SW-JKO against exact Gaussian steps, two problems of known minimum, the kernel against references.

Sections, each under its name in the JSON:

- isotropic: the ``gaussian`` family on the unit quadratic potential, against ``isotropic_sw_jko_step`` iterated;
- anisotropic: the ``gaussian`` family on random quadratic potentials, against ``gaussian_sw_jko_step`` iterated;
- fokker_planck: ``flows.coupling`` to random Gaussians, SymKL to the stationary law and to the exact iterate;
- mixture: ``flows.spline`` to five Gaussians in the plane, final energy against -log Z;
- ring: ``particles`` under the ring kernel, final energy against -1/12;
- kernel_accuracy: value and gradient of ``sliced_wasserstein_pow`` against NumPy in float64;
- kernel_speed: the same, jitted, against the value alone by POT on NumPy.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import swjko
from benchmarks import report
from swjko import closed_form, flows, problems

_SYMMETRIC_KL_SAMPLES = 10_000
_symmetric_kl = jax.jit(swjko.symmetric_kl, static_argnames=("num_samples",))
_run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))


class Solve(NamedTuple):
    """The numbers of one SW-JKO run. Adam's rate rises to learning_rate over num_warmup_steps and falls to zero by a cosine in each step.

    With its usual epsilon Adam moves every parameter by the rate, however small the gradient: a restart kicks a converged flow. epsilon at
    the size of the gradients that remain lets steps shrink with them.
    """

    num_steps: int
    step_size: float
    num_inner_steps: int
    num_samples: int
    num_projections: int
    learning_rate: float
    num_warmup_steps: int = 0
    epsilon: float = 1e-8

    def scheme(self, family: swjko.Family, functional: swjko.Functional, **options: Any) -> Any:
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.num_warmup_steps, self.num_inner_steps
        )
        return swjko.sw_jko(
            family,
            functional,
            optax.adam(schedule, eps=self.epsilon),
            step_size=self.step_size,
            num_inner_steps=self.num_inner_steps,
            num_samples=self.num_samples,
            num_projections=self.num_projections,
            **options,
        )


class Sizes(NamedTuple):
    """Everything that ``--quick`` makes smaller. kernel shapes are (points of each cloud, dimension, directions)."""

    isotropic: Solve
    isotropic_seeds: int
    anisotropic: Solve
    anisotropic_dims: tuple[int, ...]
    oracle_directions: int
    fokker_planck: Solve
    fokker_planck_seeds: int
    mixture: Solve
    mixture_seeds: int
    ring: Solve
    num_layers: int
    kernel_repeats: int


FULL = Sizes(
    isotropic=Solve(10, 0.1, 150, 512, 32, 5e-2),
    isotropic_seeds=20,
    anisotropic=Solve(10, 0.1, 300, 8192, 60, 3e-2),
    anisotropic_dims=(2, 5),
    # Ten steps carry the noise of these directions along, and it must stay below the error of the flow.
    oracle_directions=50_000,
    fokker_planck=Solve(20, 0.4, 100, 512, 64, 3e-3),
    fokker_planck_seeds=5,
    mixture=Solve(20, 0.4, 300, 512, 64, 4e-3, 60, 1e-3),
    mixture_seeds=2,
    ring=Solve(50, 0.2, 60, 512, 64, 2e-2),
    num_layers=8,
    kernel_repeats=50,
)
QUICK = Sizes(
    isotropic=Solve(10, 0.1, 40, 64, 8, 1e-1),
    isotropic_seeds=3,
    anisotropic=Solve(3, 0.1, 40, 256, 10, 1e-1),
    anisotropic_dims=(2, 5),
    oracle_directions=2_000,
    fokker_planck=Solve(2, 0.4, 20, 64, 8, 3e-3),
    fokker_planck_seeds=1,
    mixture=Solve(2, 0.2, 20, 64, 8, 3e-3),
    mixture_seeds=1,
    ring=Solve(5, 0.2, 20, 64, 8, 5e-2),
    num_layers=2,
    kernel_repeats=3,
)
KERNEL_ACCURACY_SHAPES = ((1000, 2, 100), (2000, 64, 200))
KERNEL_SPEED_SHAPE = (1000, 2, 100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick",
        action="store_true",
        help="everything at reduced size, to see that it runs; written to runs/benchmarks",
    )
    parser.add_argument(
        "--only", choices=list(_SECTIONS), help="one section, to look at; nothing is written"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="directory for the JSON (default benchmarks/results)"
    )


def main(args: argparse.Namespace) -> int:
    sizes = QUICK if args.quick else FULL
    payload: dict[str, Any] = {"quick": args.quick}
    for name, section in _SECTIONS.items():
        if args.only in (None, name):
            start = time.perf_counter()
            payload[name] = section(sizes)
            payload[name]["seconds"] = time.perf_counter() - start
            print(f"{name}: {report.plain(payload[name])}", flush=True)
    if args.only is None:
        default = Path("runs/benchmarks") if args.quick else None
        print(report.write_results("foundation", payload, args.out or default))
    return 0


def isotropic(sizes: Sizes) -> dict[str, Any]:
    """Mean and scale per coordinate after all steps from N(2, 4 I), their standard errors over seeds, beside the exact ones."""
    settings, dim = sizes.isotropic, 2
    scheme = settings.scheme(
        swjko.gaussian(dim, init_mean=2.0, init_scale=2.0), _kl_to_standard_normal()
    )

    @jax.jit
    @jax.vmap
    def moments(key):
        init_key, run_key = jax.random.split(key)
        state, _ = swjko.run(
            run_key, scheme, scheme.init(init_key), settings.num_steps, swjko.infos
        )
        mean, cov = swjko.gaussian_moments(state.params)
        return jnp.mean(mean), jnp.sqrt(jnp.trace(cov) / dim)

    keys = jax.vmap(jax.random.key)(jnp.arange(sizes.isotropic_seeds))
    estimates = {
        name: _mean_and_error(values)
        for name, values in zip(("mean", "scale"), moments(keys), strict=True)
    }
    with jax.enable_x64(True):
        law = closed_form.IsotropicGaussian(jnp.full(dim, 2.0), jnp.asarray(2.0))
        for _ in range(settings.num_steps):
            law = closed_form.isotropic_sw_jko_step(
                law.mean, law.scale, jnp.zeros(dim), settings.step_size
            )
        exact = {"mean": float(law.mean[0]), "scale": float(law.scale)}
    return {
        "settings": settings,
        "dim": dim,
        "seeds": list(range(sizes.isotropic_seeds)),
        **{name: {**estimates[name], "exact": exact[name]} for name in exact},
    }


def anisotropic(sizes: Sizes) -> dict[str, Any]:
    """The worst relative error of mean (Euclidean) and covariance (Frobenius) over the steps from N(0, I), for each dimension.

    Exact means near zero make the first large; the same error is also given in units of the exact standard deviation, sqrt(tr(cov) / d).
    """
    settings, seed = sizes.anisotropic, 0
    rows = []
    for dim in sizes.anisotropic_dims:
        problem = problems.gaussian_target(seed, dim)
        functional = swjko.kl_divergence(problem.target.log_prob)
        scheme = settings.scheme(
            swjko.gaussian(dim), functional, direction_fn=swjko.orthogonal_directions
        )
        init_key, run_key = jax.random.split(jax.random.key(seed))
        _, trajectory = _run(
            run_key, scheme, scheme.init(init_key), num_steps=settings.num_steps, record=_params
        )
        means, covs = jax.vmap(swjko.gaussian_moments)(trajectory)
        exact = _exact_iterates(problem, settings, sizes)
        errors = {
            "mean": _worst_relative(means, exact.mean),
            "cov": _worst_relative(covs, exact.cov),
        }
        deviations = np.sqrt(np.trace(exact.cov, axis1=1, axis2=2) / dim)
        in_deviations = np.max(
            np.linalg.norm(np.asarray(means, np.float64) - exact.mean, axis=1) / deviations
        )
        rows.append(
            {
                "dim": dim,
                "seed": seed,
                "worst_relative_error": errors,
                "worst_mean_error_in_deviations": in_deviations,
            }
        )
    return {"settings": settings, "oracle_directions": sizes.oracle_directions, "runs": rows}


def fokker_planck(sizes: Sizes) -> dict[str, Any]:
    """log10 of SymKL to the stationary law and to the exact SW-JKO iterate, with that iterate's own, over random problems in the plane."""
    settings, dim = sizes.fokker_planck, 2
    rows = []
    for seed in range(sizes.fokker_planck_seeds):
        problem = problems.gaussian_target(seed, dim)
        scheme = settings.scheme(
            flows.coupling(dim, num_layers=sizes.num_layers),
            swjko.kl_divergence(problem.target.log_prob),
        )
        solve_key, stationary_key, exact_key = jax.random.split(jax.random.key(seed), 3)
        solution = swjko.solve(solve_key, scheme, settings.num_steps, progress=False)
        exact = jax.tree.map(lambda leaf: leaf[-1], _exact_iterates(problem, settings, sizes))
        divergences = {}
        laws = {
            "stationary": (stationary_key, problem.target),
            "exact_iterate": (exact_key, problems.gaussian(exact.mean, exact.cov)),
        }
        for name, (key, law) in laws.items():
            params = solution.state.params
            estimate = _symmetric_kl(
                key,
                scheme.family,
                params,
                law.log_prob,
                law.sample,
                num_samples=_SYMMETRIC_KL_SAMPLES,
            )
            # Of an estimate below its own noise the standard error is what can be said; it may be zero.
            log10 = math.log10(max(float(estimate.value), float(estimate.standard_error)))
            divergences[name] = {"symmetric_kl": estimate, "log10": log10}
        own = math.log10(
            gaussian_symmetric_kl(
                exact.mean, exact.cov, problem.center, np.linalg.inv(problem.precision)
            )
        )
        timing = {
            "compile_seconds": solution.timing.compile_seconds,
            "run_seconds": solution.timing.run_seconds,
        }
        rows.append(
            {"seed": seed, **divergences, "exact_iterate_to_stationary_log10": own, **timing}
        )
    means = {
        "stationary_log10": np.mean([row["stationary"]["log10"] for row in rows]),
        "exact_iterate_log10": np.mean([row["exact_iterate"]["log10"] for row in rows]),
        "exact_iterate_to_stationary_log10": np.mean(
            [row["exact_iterate_to_stationary_log10"] for row in rows]
        ),
    }
    return {
        "settings": settings,
        "dim": dim,
        "num_layers": sizes.num_layers,
        "mean_over_problems": means,
        "runs": rows,
    }


def mixture(sizes: Sizes) -> dict[str, Any]:
    """The final energy of V = -logsumexp_j(-|x - mu_j|^2 / 2) and entropy from N(0, 16 I), beside its minimum -log Z, Z = 5 (2 pi)."""
    settings, dim, num = sizes.mixture, 2, 5
    log_z = math.log(num) + dim / 2 * math.log(2 * math.pi)
    rows = []
    for seed in range(sizes.mixture_seeds):
        target = problems.random_mixture(seed, dim, num=num)
        functional = swjko.kl_divergence(target.log_prob)
        scheme = settings.scheme(flows.spline(dim, init_scale=4.0), functional)
        solve_key, energy_key = jax.random.split(jax.random.key(seed))
        solution = swjko.solve(solve_key, scheme, settings.num_steps, progress=False)
        # log_prob is normalised and the potential above is not: the energies differ by log Z.
        divergence = swjko.evaluate(
            energy_key,
            scheme.family,
            functional,
            solution.state.params,
            num_samples=_SYMMETRIC_KL_SAMPLES,
        )
        rows.append(
            {
                "seed": seed,
                "energy": float(divergence.value) - log_z,
                "standard_error": divergence.standard_error,
                "relative_error": float(divergence.value) / log_z,
                "run_seconds": solution.timing.run_seconds,
            }
        )
    return {"settings": settings, "dim": dim, "exact": -log_z, "runs": rows}


def ring(sizes: Sizes) -> dict[str, Any]:
    """The interaction energy of the final particles from N(0, 0.25^2 I): as a measure, pairs of a point with itself included (W(0) = 0)."""
    settings, seed = sizes.ring, 0
    equilibrium = problems.ring()
    start_key, solve_key, energy_key = jax.random.split(jax.random.key(seed), 3)
    points = 0.25 * jax.random.normal(start_key, (settings.num_samples, 2))
    solution = swjko.solve(
        solve_key,
        settings.scheme(swjko.particles(points), equilibrium.functional),
        settings.num_steps,
        progress=False,
    )
    n = settings.num_samples
    energy = (
        float(equilibrium.functional(energy_key, swjko.Cloud(solution.state.params))) * (n - 1) / n
    )
    exact = equilibrium.exact_energy
    return {
        "settings": settings,
        "seed": seed,
        "energy": energy,
        "exact": exact,
        "relative_error": (energy - exact) / abs(exact),
        "radius_mean": jnp.mean(jnp.linalg.norm(solution.state.params, axis=1)),
        "run_seconds": solution.timing.run_seconds,
    }


def kernel_accuracy(sizes: Sizes) -> dict[str, Any]:
    """Relative errors of value and gradient (Euclidean norm) in float32 and float64 against NumPy in float64, on the same numbers."""
    del sizes
    rows = []
    for shape in KERNEL_ACCURACY_SHAPES:
        arrays = _kernel_arrays(shape)
        exact_value, exact_gradient = reference_value_and_gradient(
            *(array.astype(np.float64) for array in arrays)
        )
        errors = {}
        for name, x64 in (("float32", False), ("float64", True)):
            with jax.enable_x64(x64):
                value, gradient = jax.jit(_value_and_gradient)(
                    *(jnp.asarray(array, name) for array in arrays)
                )
                value, gradient = float(value), np.asarray(gradient, np.float64)
            errors[name] = {
                "value": abs(value - exact_value) / exact_value,
                "gradient": np.linalg.norm(gradient - exact_gradient)
                / np.linalg.norm(exact_gradient),
            }
        rows.append({"shape": shape, "relative_error": errors})
    return {"runs": rows}


def kernel_speed(sizes: Sizes) -> dict[str, Any]:
    """Median seconds of ours (value and gradient, jitted) and of POT (value alone, NumPy), and the second over the first, in float32."""
    import ot  # pyright: ignore[reportMissingImports]

    arrays = _kernel_arrays(KERNEL_SPEED_SHAPE)
    ours = jax.jit(_value_and_gradient)
    on_device = [jnp.asarray(array) for array in arrays]
    x, y, directions = arrays
    projections = np.ascontiguousarray(directions.T)
    medians = report.interleaved_medians(
        {
            "swjko": lambda: ours(*on_device),
            "pot": lambda: ot.sliced.sliced_wasserstein_distance(
                x, y, projections=projections, p=2
            ),
        },
        repeats=sizes.kernel_repeats,
    )
    return {
        "shape": KERNEL_SPEED_SHAPE,
        "repeats": sizes.kernel_repeats,
        "median_seconds": medians,
        "ratio": medians["pot"] / medians["swjko"],
    }


_SECTIONS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "isotropic": isotropic,
    "anisotropic": anisotropic,
    "fokker_planck": fokker_planck,
    "mixture": mixture,
    "ring": ring,
    "kernel_accuracy": kernel_accuracy,
    "kernel_speed": kernel_speed,
}


def gaussian_symmetric_kl(mean0: Any, cov0: Any, mean1: Any, cov1: Any) -> float:
    """KL both ways: [tr(P0 S1) + tr(P1 S0) + (m0 - m1)^T (P0 + P1) (m0 - m1)] / 2 - d, P = S^{-1}."""
    precision0, precision1 = np.linalg.inv(cov0), np.linalg.inv(cov1)
    shift = np.asarray(mean0) - np.asarray(mean1)
    quadratic = shift @ (precision0 + precision1) @ shift
    return float(np.trace(precision0 @ cov1) + np.trace(precision1 @ cov0) + quadratic) / 2 - len(
        shift
    )


def reference_value_and_gradient(
    x: np.ndarray, y: np.ndarray, directions: np.ndarray
) -> tuple[float, np.ndarray]:
    """SW_2^2 between clouds of one size and its gradient in x, by NumPy: sort, subtract, put back."""
    u, v = x @ directions.T, y @ directions.T
    order = np.argsort(u, axis=0)
    residual = np.empty_like(u)
    np.put_along_axis(
        residual, order, np.take_along_axis(u, order, axis=0) - np.sort(v, axis=0), axis=0
    )
    return float(np.mean(residual**2)), 2.0 / residual.size * residual @ directions


def _value_and_gradient(x, y, directions):
    return jax.value_and_grad(swjko.sliced_wasserstein_pow)(x, y, directions)


def _kernel_arrays(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x ~ N(0, I), y ~ N(1/2, I) and unit directions, in float32."""
    n, dim, num_directions = shape
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((num_directions, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    clouds = (rng.standard_normal((n, dim)), 0.5 + rng.standard_normal((n, dim)))
    x, y = (cloud.astype(np.float32) for cloud in clouds)
    return x, y, directions.astype(np.float32)


def _kl_to_standard_normal() -> swjko.Functional:
    return swjko.kl_divergence(lambda x: -0.5 * jnp.sum(x**2))


def _params(state: swjko.State, info: swjko.Info) -> Any:
    del info
    return state.params


def _mean_and_error(values: jax.Array) -> dict[str, float]:
    draws = np.asarray(values, np.float64)
    return {
        "value": float(draws.mean()),
        "standard_error": float(draws.std(ddof=1) / math.sqrt(len(draws))),
    }


def _worst_relative(values: jax.Array, exact: Any) -> float:
    """max_k |values_k - exact_k| / |exact_k| over the leading axis."""
    exact = np.asarray(exact, np.float64).reshape(len(exact), -1)
    difference = np.asarray(values, np.float64).reshape(exact.shape) - exact
    return float(np.max(np.linalg.norm(difference, axis=1) / np.linalg.norm(exact, axis=1)))


def _exact_iterates(
    problem: problems.GaussianTarget, settings: Solve, sizes: Sizes
) -> closed_form.Gaussian:
    """Of the steps taken, the start left out."""
    flow = problems.exact_sw_jko_flow(
        problem, settings.step_size, settings.num_steps, num_directions=sizes.oracle_directions
    )
    return closed_form.Gaussian(flow.mean[1:], flow.cov[1:])
