"""Shared by test modules: families, functionals and schemes by name, finite differences."""

import dataclasses
import socket
import tracemalloc
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import swjko
from swjko import flows
from swjko.data.errors import DataError

# Constructors and not values: a family is made under the dtype that its test runs in.
FAMILIES: dict[str, Callable[[], swjko.Family]] = {
    "particles": lambda: swjko.particles(jnp.linspace(-1.0, 1.0, 24).reshape(12, 2)),
    "grid": lambda: swjko.grid(
        jnp.stack(jnp.meshgrid(jnp.arange(4.0), jnp.arange(3.0)), -1).reshape(12, 2), 1.0
    ),
    "gaussian": lambda: swjko.gaussian(2, init_mean=0.5, init_scale=1.5),
    "gaussian_mixture": lambda: swjko.gaussian_mixture(2, 3, init_mean=0.5, init_scale=1.5),
    "coupling": lambda: flows.coupling(2, num_layers=2, width=8, init_mean=0.5, init_scale=1.5),
    "coupling with LU": lambda: flows.coupling(
        2, num_layers=3, width=8, mixing="lu", init_mean=0.5, init_scale=1.5
    ),
    "spline": lambda: flows.spline(2, num_layers=2, width=8, init_mean=0.5, init_scale=1.5),
    # As many steps as the laws of densities need to hold to 1e-9.
    "cnf": lambda: flows.cnf(
        2, width=8, num_layers=1, num_integration_steps=128, init_mean=0.5, init_scale=1.5
    ),
    "icnn": lambda: flows.icnn(2, width=8, rank=2, init_mean=0.5, init_scale=1.5),
    "mlp": lambda: flows.mlp(2, 2, width=8, init_mean=0.5, init_scale=1.5),
    "generator": lambda: flows.mlp(3, 2, width=8),
}

FUNCTIONALS: dict[str, Callable[[], swjko.Functional]] = {
    "potential": lambda: swjko.potential(lambda x: jnp.sum(x**2) / 2),
    "interaction": lambda: swjko.interaction(lambda x: jnp.sum(x**2) ** 2 / 4 - jnp.sum(x**2) / 2),
    "internal_energy": lambda: swjko.internal_energy(lambda r: r**2),
    "negative_entropy": swjko.negative_entropy,
    "kl_divergence": lambda: swjko.kl_divergence(lambda x: -jnp.sum(x**2) / 2),
    "sw_to_target": lambda: swjko.sw_to_target(jnp.linspace(-1.0, 1.0, 14).reshape(7, 2), 5),
    "mmd_to_target": lambda: swjko.mmd_to_target(
        jnp.linspace(-1.0, 1.0, 14).reshape(7, 2), lambda x: jnp.exp(-jnp.sum(x**2) / 2)
    ),
    "weighted_sum": lambda: swjko.weighted_sum(
        (0.5, swjko.potential(jnp.sum)), (2.0, swjko.potential(lambda x: jnp.sum(x**4)))
    ),
}


def random_weights(rng: np.random.Generator, n: int) -> np.ndarray:
    weights = rng.uniform(0.1, 1.0, n)
    return weights / weights.sum()


def central_difference(
    function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6
) -> np.ndarray:
    """The gradient of a scalar function by symmetric differences, entry by entry."""
    at = np.asarray(at, np.float64)
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[index] = step
        gradient[index] = (float(function(at + move)) - float(function(at - move))) / (2 * step)
    return gradient


def assert_gradients_are_differences(
    function: Callable, inputs: Sequence, gradients: Sequence, **tolerances: float
) -> None:
    """Compare the gradient in each input with symmetric differences."""
    for index, (at, gradient) in enumerate(zip(inputs, gradients, strict=True)):

        def of_one(entry, index=index):
            changed = list(inputs)
            changed[index] = jnp.asarray(entry)
            return function(*changed)

        np.testing.assert_allclose(gradient, central_difference(of_one, at), **tolerances)


def constant_bytes(function: Callable, *args) -> list[int]:
    """Sizes of all arrays that the traced program holds as constants, inner programs included."""
    sizes = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
            ):
                if hasattr(value, "consts"):
                    sizes.extend(jnp.asarray(constant).nbytes for constant in value.consts)
                    visit(value.jaxpr)
                elif hasattr(value, "eqns"):
                    visit(value)
                elif isinstance(value, (np.ndarray, jax.Array)):
                    sizes.append(value.nbytes)

    closed = jax.make_jaxpr(function)(*args)
    sizes.extend(jnp.asarray(constant).nbytes for constant in closed.consts)
    visit(closed.jaxpr)
    return sizes


def perturbed(family, key, size=0.2):
    """Parameters away from the start, where the identity would hide mistakes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf + size * rng.normal(size=leaf.shape), leaf.dtype),
        jax.device_get(jax.jit(family.init)(key)),
    )


TOLERANCES = [("float32", 1e-5, 1e-4), ("float64", 1e-10, 1e-9)]


def shifted_log_prob(x):
    return -0.5 * jnp.sum(((x - jnp.asarray([1.0, -1.0])) / jnp.asarray([0.5, 1.5])) ** 2)


def end_of_a_short_flow(family, exact, key):
    """log10 SymKL to N((1, -1), diag(0.5, 1.5)^2), with the density of the family ``exact``."""
    scheme = swjko.sw_jko(
        family,
        swjko.kl_divergence(shifted_log_prob),
        optax.adam(optax.cosine_decay_schedule(5e-3, 50)),
        step_size=1.0,
        num_inner_steps=50,
        num_samples=128,
        num_projections=16,
    )
    state, _ = jax.jit(swjko.run, static_argnames=("num_steps", "record"))(
        key, scheme, scheme.init(key), num_steps=5, record=swjko.infos
    )
    target = jnp.asarray([[1.0, -1.0]]) + jnp.asarray([[0.5, 1.5]]) * jax.random.normal(
        key, (500, 2)
    )
    measure = jax.jit(
        lambda params: (
            swjko.symmetric_kl(key, exact, params, shifted_log_prob, target, num_samples=500).value
        )
    )
    return np.log10(measure(state.params))


jitted_run = jax.jit(swjko.run, static_argnames=("num_steps", "record"))


def quadratic_log_prob(precision, center, x):
    return -0.5 * (x - center) @ precision @ (x - center)


def gaussian_scheme(
    family,
    *,
    precision=None,
    center=None,
    inner=150,
    rate=5e-2,
    samples=512,
    projections=32,
    step_size=0.1,
    **options,
):
    dim = family.dim
    precision = jnp.eye(dim) if precision is None else jnp.asarray(precision)
    center = jnp.zeros(dim) if center is None else jnp.asarray(center)
    return swjko.sw_jko(
        family,
        swjko.kl_divergence(Partial(quadratic_log_prob, precision, center)),
        optax.adam(optax.cosine_decay_schedule(rate, inner)),
        step_size=step_size,
        num_inner_steps=inner,
        num_samples=samples,
        num_projections=projections,
        **options,
    )


def sw_jko(family=None, functional=None, optimizer=None, **options):
    """A small ``swjko.sw_jko``: a Gaussian in a parabola, unless the arguments say otherwise."""
    defaults = {"step_size": 0.1, "num_inner_steps": 3, "num_samples": 8, "num_projections": 3}
    return swjko.sw_jko(
        swjko.gaussian(2) if family is None else family,
        FUNCTIONALS["potential"]() if functional is None else functional,
        optax.adam(1e-2) if optimizer is None else optimizer,
        **(defaults | options),
    )


def tiny_scheme(name="gaussian", functional="potential", **options):
    defaults = {"num_inner_steps": 4, "num_samples": 12, "num_projections": 5}
    return sw_jko(FAMILIES[name](), FUNCTIONALS[functional](), **(defaults | options))


# One step under jit, compiled once for each structure of scheme and state.
jitted_step = jax.jit(lambda key, scheme, state: scheme.step(key, state))


def at_index(tree, index):
    """Entry ``index`` along the leading axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def axes_of(scheme, /, **axes):
    """``in_axes`` of a vmap over the named leaves of a scheme."""
    return dataclasses.replace(jax.tree.map(lambda leaf: None, scheme), **axes)


def exact_directions(dim):
    """Directions for oracles: equal angles in the plane, orthogonal blocks elsewhere."""
    if dim == 2:
        angles = (np.arange(2000) + 0.5) * np.pi / 2000
        return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return swjko.orthogonal_directions(jax.random.key(1), 40_000, dim)


def failing_scheme():
    """A scheme whose first step is not finite."""
    return sw_jko(
        functional=swjko.potential(lambda x: jnp.sum(jnp.where(x > -jnp.inf, jnp.nan, x)))
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IndependentFlows:
    """Three flows as one scheme; all leaves but step have an axis, and the state holds a key."""

    one: swjko.Scheme

    @property
    def family(self):
        return self.one.family

    def init(self, key):
        state = jax.vmap(self.one.init)(jax.random.split(key, 3))
        return state._replace(step=jnp.zeros((), jnp.int32), extra=key)

    def step(self, key, state):
        states, info = jax.vmap(self.one.step, in_axes=(0, swjko.State(0, 0, None, 0)))(
            jax.random.split(key, 3), state._replace(extra=())
        )
        key = jax.random.fold_in(state.extra, 1)
        return states._replace(step=state.step + 1, extra=key), info


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_cli(command: str, *arguments: str) -> int:
    """Run ``python -m swjko`` with a command of words without spaces and with further arguments."""
    from swjko.cli.main import main

    return main([*command.split(), *arguments])


def check_bijection(family, params, z, dtype, tolerances, *, jacobian=True):
    """The base map of a flow family inverts, with the log-determinants of its Jacobian."""
    inverse_tolerance, log_det_tolerance = tolerances
    cloud = jax.jit(family.push)(params, z)
    assert cloud.points.dtype == jnp.dtype(dtype)
    assert float(jnp.max(jnp.abs(cloud.points - z))) > 0.1
    back, log_det = jax.jit(family.base.inverse)(params, cloud.points)
    np.testing.assert_allclose(back, z, rtol=inverse_tolerance, atol=inverse_tolerance)
    base = jax.scipy.stats.norm.logpdf(z).sum(axis=1)
    expected = [base + log_det]
    if jacobian:
        jacobians = jax.jit(jax.vmap(jax.jacrev(lambda z: family.push(params, z[None]).points[0])))
        expected.append(base - jnp.linalg.slogdet(jacobians(z))[1])
    for value in expected:
        np.testing.assert_allclose(
            cloud.log_density, value, rtol=log_det_tolerance, atol=log_det_tolerance
        )


def check_gradient_of_log_prob(family, key):
    """Path gradients use the gradient of log_prob in the points."""
    params, points = perturbed(family, key), np.asarray(jax.random.normal(key, (4, family.dim)))
    total = jax.jit(lambda points: jnp.sum(jnp.sin(family.log_prob(params, points))))
    difference = central_difference(total, points)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(points), difference, rtol=1e-6, atol=1e-8)


def expect_data_error(message, read, *arguments, peak=512 * 2**20, **options):
    """Expect one line of DataError, and at most ``peak`` bytes of Python and NumPy on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            read(*arguments, **options)
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
