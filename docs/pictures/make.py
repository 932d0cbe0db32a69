"""Makes the movies beside this file, in about two minutes: ``python docs/pictures/make.py``.

- fokker_planck.gif: the flow of ``python -m swjko fokker-planck``, which docs/quickstart.png shows
  at five times, with the same draws;
- double_well.gif: the first example of the README.

A movie pushes the same latents at all times, from mu_0 at t = 0.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import swjko
from swjko import flows, plots, problems
from swjko.cli import fokker_planck as experiment
from swjko.cli.settings import FOKKER_PLANCK

FOLDER = Path(__file__).parent
MAX_BYTES = 390_000


def main() -> None:
    fokker_planck()
    double_well()
    for path in sorted(FOLDER.glob("*.gif")):
        print(f"{path.name}: {path.stat().st_size} bytes")


def fokker_planck() -> None:
    outcome = experiment.fokker_planck(FOKKER_PLANCK, seed=0, progress=False)
    target = problems.gaussian_target(0, outcome.dim).target
    # The latents of the command line's own figure.
    replay_key = jax.random.split(jax.random.split(jax.random.key(0), 3)[0], 4)[3]
    movie(
        "fokker_planck",
        replay_key,
        flows.coupling(outcome.dim),
        outcome.solution.history,
        target.log_prob,
        "stationary law",
    )


def double_well() -> None:
    scheme = swjko.sw_jko(
        flows.coupling(dim=2),
        swjko.kl_divergence(wells),
        optax.adam(optax.cosine_decay_schedule(3e-3, 150)),
        step_size=0.1,
        num_inner_steps=150,
        num_samples=512,
        num_projections=64,
    )
    solution = swjko.solve(
        jax.random.key(0), scheme, num_steps=30, progress=False, record=swjko.both
    )
    movie("double_well", jax.random.key(1), scheme.family, solution.history, wells, "target")


def wells(x):
    return -jnp.sum((x**2 - 1.0) ** 2)


def movie(name, key, family, history, log_prob, target_name) -> None:
    states, _ = history
    # Whatever the key, a family starts at mu_0.
    start = family.init(jax.random.key(0))
    trajectory = jax.tree.map(
        lambda first, rest: np.concatenate([np.asarray(first)[None], np.asarray(rest)]),
        start,
        states.params,
    )
    clouds = swjko.replay(key, family, trajectory, 1000)
    times = np.concatenate([[0.0], states.time])
    path = FOLDER / f"{name}.gif"
    plots.movie(
        clouds.points,
        times,
        path,
        dpi=100.0,
        max_bytes=MAX_BYTES,
        log_prob=log_prob,
        target_name=target_name,
    )


if __name__ == "__main__":
    main()
