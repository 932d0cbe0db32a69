"""One process from ``import`` to a result; prints the seconds as a line of JSON."""

import collections
import importlib
import json
import sys
import time
from typing import Any

_START = time.perf_counter()

_phases: dict[str, dict[str, float]] = {}
_events: dict[str, float] = collections.defaultdict(float)
# Events of JAX's monitoring, in the order in which a program goes through them.
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}


def _end(name: str, since: float) -> float:
    """Record a phase that began at ``since``; returns the present."""
    now = time.perf_counter()
    _phases[name] = {"seconds": now - since, **_events}
    _events.clear()
    return now


def _listen(event: str, duration_secs: float, **unused: Any) -> None:
    del unused
    if event in _EVENTS:
        _events[_EVENTS[event]] += duration_secs


def _eight_schools(sigma: Any, y: Any = None) -> None:
    import numpyro  # pyright: ignore[reportMissingImports]
    import numpyro.distributions as dist  # pyright: ignore[reportMissingImports]

    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(sigma)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def eight_schools() -> str:
    """A NumPyro model, its target, ten steps of a flow, draws by name; returns the verdict."""
    import jax
    import jax.numpy as jnp
    import optax

    import swjko
    from swjko import flows

    importlib.import_module("numpyro")
    now = _start()
    sigma = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    target = swjko.interop.from_numpyro(_eight_schools, sigma, y=y)
    now = _end("from_numpyro", now)
    target = target.whitened(swjko.laplace(target.log_prob, target.start))
    now = _end("laplace", now)
    scheme = swjko.sw_jko(
        flows.coupling(target.dim),
        swjko.kl_divergence(target.log_prob),
        optax.adam(optax.cosine_decay_schedule(5e-3, 150)),
        step_size=0.5,
        num_inner_steps=150,
        num_samples=256,
        num_projections=32,
    )
    now = _end("scheme", now)
    solution = swjko.solve(jax.random.key(0), scheme, num_steps=10, progress=False)
    now = _end("solve", now)
    distribution = solution.distribution
    if distribution is None:
        raise RuntimeError("one flow has a distribution")
    points = distribution.sample(jax.random.key(1), 1000).points
    jax.block_until_ready(target.constrain(points))
    now = _end("draws", now)
    weigh = jax.jit(swjko.importance, static_argnames="num_samples")
    found = weigh(jax.random.key(2), distribution, target.log_prob, num_samples=10_000)
    verdict = found.verdict
    _end("verdict", now)
    return verdict


def gaussian() -> str:
    """Five steps of 60 updates of a coupling flow towards a Gaussian in ten dimensions."""
    import jax
    import optax

    import swjko
    from swjko import flows, problems

    now = _start()
    target = problems.gaussian_target(0, 10).target
    now = _end("target", now)
    scheme = swjko.sw_jko(
        flows.coupling(target.dim, num_layers=4, width=64),
        swjko.kl_divergence(target.log_prob),
        optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 6, 60)),
        step_size=0.4,
        num_inner_steps=60,
        num_samples=256,
        num_projections=30,
        direction_fn=swjko.recommended_directions,
    )
    now = _end("scheme", now)
    solution = swjko.solve(jax.random.key(0), scheme, num_steps=5, progress=False)
    _end("solve", now)
    return solution.result.name


def _start() -> float:
    """Record the imports, and listen to the events that follow."""
    import jax

    jax.monitoring.register_event_duration_secs_listener(_listen)
    return _end("import", _START)


def main(problem: str) -> None:
    """Run ``eight_schools`` or ``gaussian``."""
    verdict = {"eight_schools": eight_schools, "gaussian": gaussian}[problem]()
    total = sum(phase["seconds"] for name, phase in _phases.items() if name != "verdict")
    print(json.dumps({"total": total, "phases": _phases, "verdict": verdict}))


if __name__ == "__main__":
    main(sys.argv[1])
