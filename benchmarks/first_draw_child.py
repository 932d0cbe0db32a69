"""One process from ``import`` to draws of a NumPyro model; prints the seconds as a line of JSON."""

import collections
import importlib
import json
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


def main() -> None:
    import jax
    import jax.numpy as jnp
    import optax

    import swjko
    from swjko import flows

    importlib.import_module("numpyro")
    jax.monitoring.register_event_duration_secs_listener(_listen)
    now = _end("import", _START)
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
    draws = jax.block_until_ready(target.constrain(points))
    now = _end("draws", now)
    weigh = jax.jit(swjko.importance, static_argnames="num_samples")
    found = weigh(jax.random.key(2), distribution, target.log_prob, num_samples=10_000)
    verdict = found.verdict
    _end("verdict", now)
    total = sum(phase["seconds"] for name, phase in _phases.items() if name != "verdict")
    mean = {name: float(jnp.mean(values)) for name, values in draws.items()}
    result = {"total": total, "phases": _phases, "mean": mean, "verdict": verdict}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
