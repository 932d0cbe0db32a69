"""What a user gets wrong raises ``ValueError`` or ``TypeError`` that names the argument, before anything is compiled."""

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType

import swjko
from swjko import closed_form, flows, validation

pytestmark = pytest.mark.usefixtures("as_users_see_it")

KEY = jax.random.key(0)
N, M, D = 4, 3, 2
GOOD_X = np.linspace(-1.0, 1.0, N * D, dtype=np.float32).reshape(N, D)
GOOD_Y = np.linspace(0.0, 1.0, M * D, dtype=np.float32).reshape(M, D)
GOOD_DIRECTIONS = np.asarray([[1.0, 0.0], [0.6, 0.8]], np.float32)
NAN_X = np.where(np.arange(N * D).reshape(N, D) == 3, np.nan, GOOD_X)
EYE = np.eye(D, dtype=np.float32)
ONES = np.ones(D, np.float32)


def changed(array, index, value):
    copy = np.array(array)
    copy[index] = value
    return copy


# Each kind of argument with what is wrong about it; the message must hold the argument's name.
BAD_POINTS = {
    "rank 1": GOOD_X[:, 0],
    "rank 3": GOOD_X[None],
    "no points": GOOD_X[:0],
    "no coordinates": GOOD_X[:, :0],
    "integers": np.ones((N, D), int),
    "booleans": np.ones((N, D), bool),
    "complex": GOOD_X + 1j,
    "NaN": NAN_X,
    "infinity": changed(GOOD_X, (0, 0), np.inf),
    "ragged": [[1.0, 2.0], [3.0]],
    "text": "points",
    "nothing": None,
}
BAD_VALUES = {
    "rank 0": np.float32(1.0),
    "rank 2": GOOD_X,
    "empty": GOOD_X[:0, 0],
    "integers": np.arange(3),
    "NaN": NAN_X[:, 1],
    "text": "u",
}
BAD_WEIGHTS = {
    "too few": np.full(2, 0.5, np.float32),
    "rank 2": np.full((1, 4), 0.25, np.float32),
    "negative": np.asarray([1.5, -0.5, 0.0, 0.0], np.float32),
    "sum of two": np.full(4, 0.5, np.float32),
    "zeros": np.zeros(4, np.float32),
    "NaN": np.asarray([0.5, 0.5, np.nan, 0.0], np.float32),
    "integers": np.asarray([1, 0, 0, 0]),
}
BAD_DIRECTIONS = {
    "of other dimension": np.asarray([[1.0, 0.0, 0.0]], np.float32),
    "rank 1": np.asarray([1.0, 0.0], np.float32),
    "none": GOOD_DIRECTIONS[:0],
    "not unit": 2.0 * GOOD_DIRECTIONS,
    "zero": changed(GOOD_DIRECTIONS, 0, 0.0),
    "integers": np.asarray([[1, 0]]),
    "NaN": changed(GOOD_DIRECTIONS, (0, 0), np.nan),
}
BAD_COUNTS = {
    "zero": 0,
    "negative": -3,
    "fraction": 2.5,
    "text": "many",
    "boolean": True,
    "nothing": None,
}
OPTIONAL_COUNTS = {name: value for name, value in BAD_COUNTS.items() if value is not None}
BAD_POSITIVES = {
    "zero": 0.0,
    "negative": -0.1,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "text": "small",
    "nothing": None,
}
BAD_POWERS = {
    "below one": 0.5,
    "zero": 0,
    "infinite": float("inf"),
    "NaN": float("nan"),
    "text": "two",
    "nothing": None,
}
BAD_SQUARES = {
    "wrong shape": np.eye(3, dtype=np.float32),
    "a vector": ONES,
    "integers": np.eye(D, dtype=int),
    "asymmetric": np.asarray([[1.0, 0.5], [0.0, 1.0]], np.float32),
    "negative": -EYE,
    "NaN": changed(EYE, (0, 0), np.nan),
}
SINGULAR = {"singular": np.diag([1.0, 0.0]).astype(np.float32)}
BAD_VECTORS = {
    "of other length": np.ones(3, np.float32),
    "a matrix": EYE,
    "integers": np.ones(D, int),
    "NaN": np.asarray([1.0, np.nan], np.float32),
}
BAD_WORDS = {"another": "approximate", "nothing": None, "a number": 1}
BAD_FUNCTIONS = {"a number": 3.0, "nothing": None, "text": "f"}
BAD_MESHES = {
    "a number": 8,
    "devices": jax.devices(),
    "no axis of flows": jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,)),
}
BAD_FAMILIES = {"nothing": None, "an array": GOOD_X, "a function": flows.coupling}


def family():
    return swjko.gaussian(D)


def without_density():
    return swjko.particles(jnp.asarray(GOOD_X))


def log_prob(x):
    return -jnp.sum(x**2) / 2


def scheme(**changes):
    inputs = {
        "family": family(),
        "functional": swjko.potential(jnp.sum),
        "optimizer": optax.sgd(0.1),
    }
    inputs |= {
        "step_size": 0.1,
        "num_inner_steps": 1,
        "num_samples": 4,
        "num_projections": 2,
    } | changes
    return swjko.sw_jko(
        inputs.pop("family"), inputs.pop("functional"), inputs.pop("optimizer"), **inputs
    )


def sliced(function, **changes):
    inputs = {"x": GOOD_X, "y": GOOD_Y, "directions": GOOD_DIRECTIONS} | changes
    return function(inputs.pop("x"), inputs.pop("y"), inputs.pop("directions"), **inputs)


def line(**changes):
    inputs = {"u": GOOD_X[:, 0], "v": GOOD_Y[:, 0]} | changes
    return swjko.wasserstein_1d_pow(inputs.pop("u"), inputs.pop("v"), **inputs)


def w2(function, *more, **changes):
    inputs = {"mean0": ONES, "cov0": EYE, "mean1": ONES, "cov1": EYE} | changes
    return function(*inputs.values(), *more)


def gaussian_step(**changes):
    inputs = {
        "mean": ONES,
        "cov": EYE,
        "precision": EYE,
        "center": ONES,
        "step_size": 0.1,
        "directions": GOOD_DIRECTIONS,
    } | changes
    return closed_form.gaussian_sw_jko_step(**inputs)


def second_order_step(**changes):
    inputs = {
        "mean": ONES,
        "cov": EYE,
        "previous_mean": ONES,
        "previous_cov": EYE,
        "precision": EYE,
        "center": ONES,
    }
    return closed_form.gaussian_sw_bdf2_step(
        **(inputs | {"step_size": 0.1, "directions": GOOD_DIRECTIONS} | changes)
    )


def isotropic_step(**changes):
    return closed_form.isotropic_sw_jko_step(
        **({"mean": ONES, "scale": 1.0, "center": ONES, "step_size": 0.1} | changes)
    )


def ornstein_uhlenbeck(**changes):
    return closed_form.ornstein_uhlenbeck(
        **({"mean": ONES, "cov": EYE, "precision": EYE, "center": ONES, "time": 1.0} | changes)
    )


def to_target(**changes):
    inputs = {"target": GOOD_Y, "num_projections": 3} | changes
    return swjko.sw_to_target(inputs.pop("target"), inputs.pop("num_projections"), **inputs)


def pushed(**changes):
    inputs = {
        "init": lambda key: jnp.zeros(D),
        "transform": lambda params, z: z + params[None, :],
        "dim": D,
    } | changes
    return swjko.pushforward(inputs.pop("init"), inputs.pop("transform"), **inputs)


def evaluated(**changes):
    inputs = {
        "family": family(),
        "functional": swjko.negative_entropy(),
        "num_samples": 4,
    } | changes
    one, functional = inputs.pop("family"), inputs.pop("functional")
    return swjko.evaluate(KEY, one, functional, family().init(KEY), **inputs)


def symmetric_kl(**changes):
    inputs = {
        "family": family(),
        "target_log_prob": log_prob,
        "target_sample": GOOD_X,
        "num_samples": 4,
    } | changes
    one, target, points = (
        inputs.pop("family"),
        inputs.pop("target_log_prob"),
        inputs.pop("target_sample"),
    )
    return swjko.symmetric_kl(KEY, one, family().init(KEY), target, points, **inputs)


def replayed(**changes):
    params = jax.tree.map(lambda leaf: leaf[None], family().init(KEY))
    inputs = {"family": family(), "params_trajectory": params, "num": 4} | changes
    return swjko.replay(KEY, *inputs.values())


def second_order(**changes):
    inputs = {
        "family": family(),
        "functional": swjko.potential(jnp.sum),
        "optimizer": optax.sgd(0.1),
    }
    inputs |= {
        "step_size": 0.1,
        "num_inner_steps": 1,
        "num_samples": 4,
        "num_projections": 2,
    } | changes
    return swjko.sw_bdf2(
        inputs.pop("family"), inputs.pop("functional"), inputs.pop("optimizer"), **inputs
    )


def adapted(**changes):
    inputs = {"scheme": scheme(), "min_step_size": 0.01, "max_step_size": 1.0} | changes
    return swjko.adaptive(inputs.pop("scheme"), **inputs)


def moved_by_langevin(**changes):
    inputs = {"points_init": GOOD_X, "log_prob": log_prob, "step_size": 0.1} | changes
    return swjko.langevin(inputs.pop("points_init"), inputs.pop("log_prob"), **inputs)


def moved_by_slices(**changes):
    inputs = {
        "points_init": GOOD_X,
        "target": GOOD_Y,
        "step_size": 0.1,
        "num_projections": 2,
    } | changes
    return swjko.sliced_flow(inputs.pop("points_init"), inputs.pop("target"), **inputs)


def minimised(**changes):
    inputs = {
        "family": family(),
        "functional": swjko.potential(jnp.sum),
        "optimizer": optax.sgd(0.1),
    }
    inputs |= {"num_inner_steps": 1, "num_samples": 4} | changes
    return swjko.direct_minimization(
        inputs.pop("family"), inputs.pop("functional"), inputs.pop("optimizer"), **inputs
    )


def certified(**changes):
    trajectory = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), family().init(KEY))
    inputs = {
        "scheme": scheme(),
        "trajectory": trajectory,
        "num_samples": 4,
        "num_repeats": 2,
    } | changes
    return swjko.certificate(KEY, inputs.pop("scheme"), inputs.pop("trajectory"), **inputs)


def guarded(**changes):
    inputs = {"scheme": scheme()} | changes
    return swjko.guarded(inputs.pop("scheme"), **inputs)


def until_certified(**changes):
    inputs = {"key": KEY, "scheme": scheme(), "num_samples": 4, "num_repeats": 2} | changes
    return swjko.until_certified(inputs.pop("key"), inputs.pop("scheme"), **inputs)


def ran(**changes):
    inputs = {"scheme": scheme(), "state": scheme().init(KEY), "num_steps": 1} | changes
    return swjko.run(
        KEY, inputs.pop("scheme"), inputs.pop("state"), inputs.pop("num_steps"), **inputs
    )


def solved(**changes):
    inputs = {"key": KEY, "scheme": scheme(), "num_steps": 1, "progress": False} | changes
    return swjko.solve(inputs.pop("key"), inputs.pop("scheme"), inputs.pop("num_steps"), **inputs)


def solved_many(**changes):
    return solved(**({"key": jax.random.split(KEY, 2)} | changes))


def ran_many(**changes):
    inputs = {"keys": jax.random.split(KEY, 2), "scheme": scheme(), "num_steps": 1} | changes
    return swjko.run_many(
        inputs.pop("keys"), inputs.pop("scheme"), inputs.pop("num_steps"), **inputs
    )


def swept():
    return dataclasses.replace(scheme(), step_size=jnp.asarray([0.1, 0.2, 0.3]))


class _BatchNormalised(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(D, rngs=rngs)

    def __call__(self, z):
        return self.norm(z)


class _Affine(nnx.Module):
    """Returns three coordinates, whatever the dimension asked for."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(D, 3, rngs=rngs)

    def __call__(self, z):
        return self.layer(z)


def both_functions(name, values):
    for function in (swjko.sliced_wasserstein_pow, swjko.sliced_wasserstein):
        yield (
            function.__name__,
            lambda value, function=function: sliced(function, **{name: value}),
            name,
            values,
        )


# (what is called, a function of the bad value, the name that the message must hold, the bad values)
TABLE: list[tuple[str, Callable, str, dict]] = [
    (
        "uniform_directions",
        lambda value: swjko.uniform_directions(KEY, value, 2),
        "num",
        BAD_COUNTS,
    ),
    (
        "uniform_directions",
        lambda value: swjko.uniform_directions(KEY, 2, value),
        "dim",
        BAD_COUNTS,
    ),
    (
        "orthogonal_directions",
        lambda value: swjko.orthogonal_directions(KEY, value, 2),
        "num",
        BAD_COUNTS,
    ),
    (
        "orthogonal_directions",
        lambda value: swjko.orthogonal_directions(KEY, 2, value),
        "dim",
        BAD_COUNTS,
    ),
    (
        "recommended_directions",
        lambda value: swjko.recommended_directions(KEY, value, 2),
        "num",
        BAD_COUNTS,
    ),
    (
        "recommended_directions",
        lambda value: swjko.recommended_directions(KEY, 2, value),
        "dim",
        BAD_COUNTS,
    ),
    (
        "uniform_directions",
        lambda value: swjko.uniform_directions(value, 2, 2),
        "key",
        {"a seed": 0, "nothing": None},
    ),
    (
        "orthogonal_directions",
        lambda value: swjko.orthogonal_directions(value, 2, 2),
        "key",
        {"a seed": 0, "nothing": None},
    ),
    ("wasserstein_1d_pow", lambda value: line(u=value), "u", BAD_VALUES),
    ("wasserstein_1d_pow", lambda value: line(v=value), "v", BAD_VALUES),
    ("wasserstein_1d_pow", lambda value: line(u_weights=value), "u_weights", BAD_WEIGHTS),
    (
        "wasserstein_1d_pow",
        lambda value: line(v=GOOD_X[:, 0], v_weights=value),
        "v_weights",
        BAD_WEIGHTS,
    ),
    ("wasserstein_1d_pow", lambda value: line(p=value), "p", BAD_POWERS),
    *both_functions("x", BAD_POINTS),
    *both_functions("y", BAD_POINTS),
    *both_functions("directions", BAD_DIRECTIONS),
    *both_functions("x_weights", BAD_WEIGHTS),
    *both_functions("p", BAD_POWERS),
    *both_functions("block_size", OPTIONAL_COUNTS),
    (
        "sliced_wasserstein_pow",
        lambda value: sliced(swjko.sliced_wasserstein_pow, y=GOOD_X, y_weights=value),
        "y_weights",
        BAD_WEIGHTS,
    ),
    (
        "sliced_wasserstein_pow",
        lambda value: sliced(swjko.sliced_wasserstein_pow, y=value),
        "x and y",
        {"dimension": np.ones((M, 3), np.float32)},
    ),
    *(
        (
            "gaussian_w2_pow",
            lambda value, name=name: w2(closed_form.gaussian_w2_pow, **{name: value}),
            name,
            bad,
        )
        for name, bad in {
            "mean0": BAD_VECTORS,
            "mean1": BAD_VECTORS,
            "cov0": BAD_SQUARES,
            "cov1": BAD_SQUARES,
        }.items()
    ),
    *(
        (
            "gaussian_sw2_pow",
            lambda value, name=name: w2(
                closed_form.gaussian_sw2_pow, GOOD_DIRECTIONS, **{name: value}
            ),
            name,
            bad,
        )
        for name, bad in {
            "mean0": BAD_VECTORS,
            "mean1": BAD_VECTORS,
            "cov0": BAD_SQUARES,
            "cov1": BAD_SQUARES,
        }.items()
    ),
    (
        "gaussian_sw2_pow",
        lambda value: w2(closed_form.gaussian_sw2_pow, value),
        "directions",
        BAD_DIRECTIONS,
    ),
    *(
        ("gaussian_sw_jko_step", lambda value, name=name: gaussian_step(**{name: value}), name, bad)
        for name, bad in {
            "mean": BAD_VECTORS,
            "center": BAD_VECTORS,
            "cov": BAD_SQUARES | SINGULAR,
            "precision": BAD_SQUARES,
            "step_size": BAD_POSITIVES | {"a list": [0.1, 0.2]},
            "directions": BAD_DIRECTIONS,
        }.items()
    ),
    *(
        (
            "gaussian_sw_bdf2_step",
            lambda value, name=name: second_order_step(**{name: value}),
            name,
            bad,
        )
        for name, bad in {
            "mean": BAD_VECTORS,
            "previous_mean": BAD_VECTORS,
            "cov": BAD_SQUARES | SINGULAR,
            "previous_cov": BAD_SQUARES,
            "step_size": BAD_POSITIVES,
        }.items()
    ),
    *(
        (
            "isotropic_sw_jko_step",
            lambda value, name=name: isotropic_step(**{name: value}),
            name,
            bad,
        )
        for name, bad in {
            "mean": BAD_VECTORS,
            "center": BAD_VECTORS,
            "scale": BAD_POSITIVES,
            "step_size": BAD_POSITIVES,
        }.items()
    ),
    *(
        (
            "ornstein_uhlenbeck",
            lambda value, name=name: ornstein_uhlenbeck(**{name: value}),
            name,
            bad,
        )
        for name, bad in {
            "mean": BAD_VECTORS,
            "center": BAD_VECTORS,
            "cov": BAD_SQUARES,
            "precision": BAD_SQUARES | SINGULAR,
            "time": {"negative": -1.0, "NaN": float("nan")},
        }.items()
    ),
    ("potential", swjko.potential, "v", BAD_FUNCTIONS),
    ("internal_energy", swjko.internal_energy, "f", BAD_FUNCTIONS),
    (
        "mmd_to_target",
        lambda value: swjko.mmd_to_target(np.ones((3, 2)), value),
        "kernel",
        BAD_FUNCTIONS,
    ),
    ("interaction", swjko.interaction, "w", BAD_FUNCTIONS),
    (
        "interaction",
        lambda value: swjko.interaction(jnp.sum, block_size=value),
        "block_size",
        OPTIONAL_COUNTS,
    ),
    (
        "nearest_neighbour_negative_entropy",
        swjko.nearest_neighbour_negative_entropy,
        "num_neighbours",
        BAD_COUNTS,
    ),
    (
        "nearest_neighbour_negative_entropy",
        lambda value: swjko.nearest_neighbour_negative_entropy(block_size=value),
        "block_size",
        OPTIONAL_COUNTS,
    ),
    ("kl_divergence", swjko.kl_divergence, "target_log_prob", BAD_FUNCTIONS),
    ("sw_to_target", lambda value: to_target(target=value), "target", BAD_POINTS),
    ("sw_to_target", lambda value: to_target(num_projections=value), "num_projections", BAD_COUNTS),
    (
        "sw_to_target",
        lambda value: to_target(batch_size=value),
        "batch_size",
        OPTIONAL_COUNTS | {"too many": M + 1},
    ),
    ("sw_to_target", lambda value: to_target(direction_fn=value), "direction_fn", BAD_FUNCTIONS),
    (
        "weighted_sum",
        lambda value: swjko.weighted_sum(*value),
        r"\(coef, functional\)",
        {
            "no terms": (),
            "no pair": (swjko.negative_entropy(),),
            "no functional": ((1.0, 2.0),),
            "swapped": ((swjko.negative_entropy(), 1.0),),
            "text": (("a", swjko.negative_entropy()),),
            "a vector": ((np.ones(2), swjko.negative_entropy()),),
        },
    ),
    ("particles", swjko.particles, "points", BAD_POINTS),
    *(
        (make.__name__, make, "dim", BAD_COUNTS)
        for make in (swjko.gaussian, flows.coupling, flows.cnf, flows.icnn)
    ),
    ("coupling", flows.coupling, "dim", {"one": 1}),
    (
        "gaussian_mixture",
        lambda value: swjko.gaussian_mixture(D, value),
        "num_components",
        BAD_COUNTS,
    ),
    *(
        (
            name,
            lambda value, make=make: make(init_scale=value),
            "init_scale",
            BAD_POSITIVES | {"too many": ONES.repeat(2)},
        )
        for name, make in {
            "gaussian": lambda **more: swjko.gaussian(D, **more),
            "gaussian_mixture": lambda **more: swjko.gaussian_mixture(D, 3, **more),
            "coupling": lambda **more: flows.coupling(D, **more),
            "cnf": lambda **more: flows.cnf(D, **more),
            "icnn": lambda **more: flows.icnn(D, **more),
            "mlp": lambda **more: flows.mlp(D, D, **more),
        }.items()
    ),
    *(
        (
            name,
            lambda value, make=make: make(init_mean=value),
            "init_mean",
            {"too many": np.ones(3), "NaN": float("nan"), "text": "a"},
        )
        for name, make in {
            "gaussian": lambda **more: swjko.gaussian(D, **more),
            "gaussian_mixture": lambda **more: swjko.gaussian_mixture(D, 3, **more),
            "coupling": lambda **more: flows.coupling(D, **more),
            "cnf": lambda **more: flows.cnf(D, **more),
            "icnn": lambda **more: flows.icnn(D, **more),
            "mlp": lambda **more: flows.mlp(D, D, **more),
        }.items()
    ),
    ("coupling", lambda value: flows.coupling(D, num_layers=value), "num_layers", BAD_COUNTS),
    ("coupling", lambda value: flows.coupling(D, width=value), "width", BAD_COUNTS),
    (
        "coupling",
        lambda value: flows.coupling(D, mixing=value),
        "mixing",
        BAD_WORDS | {"in capitals": "LU"},
    ),
    (
        "coupling",
        lambda value: flows.coupling(D, mixing="lu", num_layers=value),
        "num_layers",
        {"too few": 2, "zero": 0, "text": "a"},
    ),
    *(
        (
            make.__name__,
            lambda value, make=make, name=name: make(D, **{name: value}),
            name,
            BAD_COUNTS,
        )
        for make, names in {
            flows.cnf: ("width", "num_layers", "num_integration_steps", "num_probes"),
            flows.icnn: ("width", "num_layers", "rank", "num_probes"),
        }.items()
        for name in names
    ),
    *(
        (
            make.__name__,
            lambda value, make=make: make(D, seed=value),
            "seed",
            {"negative": -1, "a key": KEY},
        )
        for make in (flows.cnf, flows.icnn)
    ),
    ("cnf", lambda value: flows.cnf(D, divergence=value), "divergence", BAD_WORDS),
    ("icnn", lambda value: flows.icnn(D, log_det=value), "log_det", BAD_WORDS),
    ("cnf", lambda value: flows.cnf(D, solver=value), "solver", {"text": "Tsit5", "a number": 5}),
    (
        "icnn",
        lambda value: flows.icnn(D, strong_convexity=value),
        "strong_convexity",
        BAD_POSITIVES | {"that of the start": 1.0, "a vector": ONES},
    ),
    ("mlp", lambda value: flows.mlp(value, D), "latent_dim", BAD_COUNTS),
    ("mlp", lambda value: flows.mlp(D, value), "dim", BAD_COUNTS),
    ("mlp", lambda value: flows.mlp(D, D, num_layers=value), "num_layers", BAD_COUNTS),
    ("mlp", lambda value: flows.mlp(D, D, width=value), "width", BAD_COUNTS),
    (
        "from_nnx",
        lambda value: flows.from_nnx(value, dim=D),
        "make_model",
        BAD_FUNCTIONS | {"other state": _BatchNormalised},
    ),
    ("from_nnx", lambda value: flows.from_nnx(_Affine, dim=value), "dim", BAD_COUNTS),
    (
        "from_nnx",
        lambda value: flows.from_nnx(value, dim=D),
        "family of dimension 2",
        {"three coordinates": _Affine},
    ),
    ("pushforward", lambda value: pushed(dim=value), "dim", BAD_COUNTS),
    ("pushforward", lambda value: pushed(latent_dim=value), "latent_dim", OPTIONAL_COUNTS),
    ("pushforward", lambda value: pushed(init=value), "init", BAD_FUNCTIONS),
    ("pushforward", lambda value: pushed(transform=value), "transform", BAD_FUNCTIONS),
    (
        "pushforward",
        lambda value: pushed(transform=value),
        "family of dimension 2",
        {"rank 1": lambda params, z: z[:, 0], "wide": lambda params, z: jnp.ones((len(z), 3))},
    ),
    ("pushforward", lambda value: pushed(inverse=value), "inverse", {"a number": 3.0, "text": "f"}),
    (
        "pushforward",
        lambda value: pushed(inverse=value, latent_dim=3),
        "inverse",
        {"wider latents": lambda params, x: (x, x[:, 0])},
    ),
    (
        "pushforward",
        lambda value: pushed(
            transform=lambda params, z: value(z), inverse=lambda params, x: (x, x[:, 0])
        ),
        "transform",
        {
            "rank 2": lambda z: (z, z),
            "rank 0": lambda z: (z, jnp.zeros(())),
            "no pair": lambda z: z,
        },
    ),
    (
        "pushforward",
        lambda value: pushed(
            transform=lambda params, z: (z, z[:, 0]), inverse=lambda params, x: value(x)
        ),
        "inverse",
        {
            "rank 2": lambda x: (x, x),
            "rank 0": lambda x: (x, jnp.zeros(())),
            "no pair": lambda x: x,
        },
    ),
    (
        "sample",
        lambda value: swjko.sample(family(), family().init(KEY), KEY, value),
        "num",
        BAD_COUNTS,
    ),
    ("sample", lambda value: swjko.sample(value, None, KEY, 3), "family", BAD_FAMILIES),
    ("sw_jko", lambda value: scheme(family=value), "family", BAD_FAMILIES),
    ("sw_jko", lambda value: scheme(functional=value), "functional", BAD_FUNCTIONS),
    (
        "sw_jko",
        lambda value: scheme(functional=value, family=without_density()),
        "functional needs the density",
        {
            "entropy": swjko.negative_entropy(),
            "KL": swjko.kl_divergence(log_prob),
            "a sum": swjko.weighted_sum((1.0, swjko.negative_entropy())),
        },
    ),
    (
        "sw_jko",
        lambda value: scheme(functional=value),
        "functional must return a scalar",
        {"a vector": lambda key, cloud: cloud.points[0]},
    ),
    (
        "sw_jko",
        lambda value: scheme(functional=swjko.potential(value)),
        "v must map one point",
        {"a vector": lambda x: x},
    ),
    (
        "sw_jko",
        lambda value: scheme(optimizer=value),
        "optimizer",
        {"nothing": None, "a rate": 1e-3, "a class": optax.adam},
    ),
    (
        "sw_jko",
        lambda value: scheme(step_size=value),
        "step_size",
        BAD_POSITIVES | {"a list": [0.1, 0.2]},
    ),
    (
        "sw_jko",
        lambda value: scheme(inner_tolerance=value),
        "inner_tolerance",
        {name: bad for name, bad in BAD_POSITIVES.items() if bad is not None},
    ),
    *(
        ("sw_jko", lambda value, name=name: scheme(**{name: value}), name, BAD_COUNTS)
        for name in ("num_inner_steps", "num_samples", "num_projections")
    ),
    ("sw_jko", lambda value: scheme(direction_fn=value), "direction_fn", BAD_FUNCTIONS),
    (
        "sw_jko",
        lambda value: scheme(direction_fn=value),
        "directions",
        {"of other dimension": lambda key, num, dim: jnp.ones((num, dim + 1))},
    ),
    (
        "sw_bdf2",
        lambda value: second_order(family=value, num_samples=N),
        "family",
        BAD_FAMILIES | {"weights": swjko.grid(jnp.asarray(GOOD_X), 1.0)},
    ),
    ("sw_bdf2", lambda value: second_order(step_size=value), "step_size", BAD_POSITIVES),
    ("sw_bdf2", lambda value: second_order(num_samples=value), "num_samples", BAD_COUNTS),
    (
        "adaptive",
        lambda value: adapted(scheme=value),
        "scheme",
        {"nothing": None, "a family": family(), "of second order": second_order()},
    ),
    (
        "adaptive",
        lambda value: adapted(min_step_size=value),
        "min_step_size",
        BAD_POSITIVES | {"above the step size": 0.5},
    ),
    (
        "adaptive",
        lambda value: adapted(max_step_size=value),
        "max_step_size",
        BAD_POSITIVES | {"below the step size": 0.05},
    ),
    *(
        ("adaptive", lambda value, name=name: adapted(**{name: value}), name, bad)
        for name, bad in {
            "growth": {"below one": 0.5, "NaN": float("nan"), "text": "a", "nothing": None},
            "saturation": {"negative": -1.0, "infinite": float("inf"), "text": "a"},
            "num_standard_errors": {"negative": -1.0, "boolean": True},
            "num_repeats": BAD_COUNTS | {"one": 1},
            "max_retries": BAD_COUNTS,
        }.items()
    ),
    *(
        ("langevin", lambda value, name=name: moved_by_langevin(**{name: value}), name, bad)
        for name, bad in {
            "points_init": BAD_POINTS,
            "log_prob": BAD_FUNCTIONS | {"a vector": lambda x: x},
            "step_size": BAD_POSITIVES | {"a list": [0.1, 0.2]},
            "num_inner_steps": BAD_COUNTS,
        }.items()
    ),
    *(
        ("sliced_flow", lambda value, name=name: moved_by_slices(**{name: value}), name, bad)
        for name, bad in {
            "points_init": BAD_POINTS,
            "target": BAD_POINTS | {"dimension": np.ones((M, 3), np.float32)},
            "step_size": BAD_POSITIVES,
            "num_projections": BAD_COUNTS,
            "temperature": {
                "negative": -0.1,
                "NaN": float("nan"),
                "infinite": float("inf"),
                "text": "a",
                "a list": [0.1, 0.2],
            },
            "direction_fn": BAD_FUNCTIONS,
            "num_inner_steps": BAD_COUNTS,
        }.items()
    ),
    *(
        ("direct_minimization", lambda value, name=name: minimised(**{name: value}), name, bad)
        for name, bad in {
            "family": BAD_FAMILIES,
            "functional": BAD_FUNCTIONS,
            "optimizer": {"nothing": None},
            "num_inner_steps": BAD_COUNTS,
            "num_samples": BAD_COUNTS,
        }.items()
    ),
    (
        "certificate",
        lambda value: certified(scheme=value),
        "scheme",
        {"nothing": None, "of second order": second_order()},
    ),
    ("certificate", lambda value: certified(num_samples=value), "num_samples", BAD_COUNTS),
    (
        "certificate",
        lambda value: certified(num_repeats=value),
        "num_repeats",
        BAD_COUNTS | {"one": 1},
    ),
    (
        "certificate",
        lambda value: certified(gradient_tolerance=value),
        "gradient_tolerance",
        BAD_POSITIVES,
    ),
    (
        "certificate",
        lambda value: certified(trajectory=value),
        "trajectory",
        {"nothing": None, "points": GOOD_X, "no times": family().init(KEY)},
    ),
    ("certificate", lambda value: certified(start=value), "start", {"points": GOOD_X}),
    (
        "run",
        lambda value: ran(scheme=value),
        "scheme",
        {"nothing": None, "a family": swjko.gaussian},
    ),
    ("run", lambda value: ran(state=value), "state", {"nothing": None, "points": GOOD_X}),
    ("run", lambda value: ran(num_steps=value), "num_steps", BAD_COUNTS),
    ("run", lambda value: ran(record=value), "record", BAD_FUNCTIONS),
    (
        "run_many",
        lambda value: ran_many(keys=value),
        "keys",
        {
            "nothing": None,
            "one key": KEY,
            "a number": 3,
            "none": jax.random.split(KEY, 0),
            "rank 2": jax.random.split(KEY, (2, 2)),
        },
    ),
    (
        "run_many",
        lambda value: ran_many(scheme=value),
        "scheme",
        {"nothing": None, "a list": [scheme()]},
    ),
    ("run_many", lambda value: ran_many(num_steps=value), "num_steps", BAD_COUNTS),
    ("run_many", lambda value: ran_many(record=value), "record", BAD_FUNCTIONS),
    (
        "run_many",
        lambda value: ran_many(axes=value),
        "axes",
        {
            "one": 1,
            "minus one": -1,
            "boolean": False,
            "a name": "step_size",
            "a tuple": (0, None),
            "the scheme": scheme(),
        },
    ),
    ("run_many", lambda value: ran_many(scheme=value), "axes", {"not said to be stacked": swept()}),
    (
        "run_many",
        lambda value: ran_many(
            scheme=value,
            axes=dataclasses.replace(jax.tree.map(lambda leaf: None, value), step_size=0),
        ),
        "step_size",
        {"of another length": swept(), "not stacked": scheme()},
    ),
    ("run_many", lambda value: ran_many(mesh=value), "mesh", BAD_MESHES),
    ("run_many", lambda value: ran_many(batch_size=value), "batch_size", OPTIONAL_COUNTS),
    (
        "stack_flows",
        swjko.stack_flows,
        "schemes",
        {
            "nothing": None,
            "one scheme": scheme(),
            "none": [],
            "two kinds": [scheme(), second_order()],
        },
    ),
    ("stack_flows", lambda value: swjko.stack_flows([value]), "scheme", {"a family": family()}),
    (
        "flow_mesh",
        swjko.flow_mesh,
        "devices",
        {"none": [], "a number": 8, "a name": "cpu", "numbers": [0, 1]},
    ),
    (
        "flow_mesh",
        lambda value: swjko.flow_mesh(projection_devices=value),
        "projection_devices",
        BAD_COUNTS | {"no divisor": 3, "more than there are": 16},
    ),
    ("shard_flows", lambda value: swjko.shard_flows(jnp.ones(8), value), "mesh", BAD_MESHES),
    (
        "shard_flows",
        lambda value: swjko.shard_flows(value, swjko.flow_mesh()),
        "tree",
        {
            "no multiple": jnp.ones(6),
            "no flows": jnp.ones((0, 2)),
            "a scalar": jnp.ones(()),
            "two lengths": (jnp.ones(8), jnp.ones(16)),
        },
    ),
    *(
        ("guarded", lambda value, name=name: guarded(**{name: value}), name, bad)
        for name, bad in {
            "scheme": {
                "nothing": None,
                "a family": family(),
                "of second order": second_order(),
                "adaptive": adapted(),
                "direct": minimised(),
            },
            "max_retries": BAD_COUNTS,
            "factor": {
                "zero": 0.0,
                "one": 1.0,
                "negative": -0.5,
                "NaN": float("nan"),
                "text": "half",
                "nothing": None,
            },
            "recovery": BAD_COUNTS,
        }.items()
    ),
    (
        "guarded",
        lambda value: guarded(scheme=value, scale_updates=True),
        "scale_updates",
        {"no optimizer": moved_by_langevin(points_init=jnp.asarray(GOOD_X))},
    ),
    (
        "until_stationary",
        lambda value: swjko.until_stationary(num_standard_errors=value),
        "num_standard_errors",
        BAD_POSITIVES,
    ),
    *(
        ("until_certified", lambda value, name=name: until_certified(**{name: value}), name, bad)
        for name, bad in {
            "key": {"a seed": 0, "nothing": None, "rank 2": jax.random.split(KEY, (2, 2))},
            "scheme": {
                "nothing": None,
                "of second order": second_order(),
                "guarded": swjko.guarded(scheme()),
            },
            "num_samples": BAD_COUNTS,
            "num_repeats": BAD_COUNTS | {"one": 1},
            "axes": {"for one key": 0},
            "gradient_tolerance": BAD_POSITIVES | {"a list": [0.1, 0.2]},
            "num_standard_errors": BAD_POSITIVES | {"a list": [0.1, 0.2]},
        }.items()
    ),
    (
        "until_certified",
        lambda value: until_certified(key=jax.random.split(KEY, 2), axes=value),
        "axes",
        {"one": 1, "a name": "step_size"},
    ),
    (
        "solve",
        lambda value: solved(key=value),
        "key",
        {"a seed": 0, "nothing": None, "rank 2": jax.random.split(KEY, (2, 2))},
    ),
    ("solve", lambda value: solved(key=value), "keys", {"none": jax.random.split(KEY, 0)}),
    ("solve", lambda value: solved(axes=value), "axes", {"for one key": 0}),
    (
        "solve",
        lambda value: solved(mesh=value),
        "mesh",
        {"for one key": jax.make_mesh((8,), ("flow",), axis_types=(AxisType.Auto,))},
    ),
    ("solve", lambda value: solved(batch_size=value), "batch_size", {"for one key": 2}),
    (
        "solve",
        lambda value: solved_many(axes=value),
        "axes",
        {"one": 1, "a name": "step_size", "the scheme": scheme()},
    ),
    ("solve", lambda value: solved_many(scheme=value), "axes", {"not said to be stacked": swept()}),
    ("solve", lambda value: solved_many(mesh=value), "mesh", BAD_MESHES),
    ("solve", lambda value: solved_many(batch_size=value), "batch_size", OPTIONAL_COUNTS),
    ("solve", lambda value: solved(stop=value), "stop", {"a number": 3.0, "text": "early"}),
    (
        "solve",
        lambda value: solved(stop=lambda state, history: value, stop_steps=1),
        "stop",
        {"a number": 1.0, "nothing": None, "two": np.asarray([True, False])},
    ),
    ("solve", lambda value: solved(stop_steps=value), "stop_steps", BAD_COUNTS),
    (
        "solve",
        lambda value: solved(stop=swjko.until_stationary(), stop_steps=value),
        "stop_steps",
        {"too few": 1},
    ),
    (
        "solve",
        lambda value: solved(scheme=value),
        "scheme",
        {"nothing": None, "a family": swjko.gaussian},
    ),
    ("solve", lambda value: solved(num_steps=value), "num_steps", BAD_COUNTS),
    ("solve", lambda value: solved(chunk_size=value), "chunk_size", OPTIONAL_COUNTS),
    ("solve", lambda value: solved(record=value), "record", BAD_FUNCTIONS),
    (
        "solve",
        lambda value: solved(checkpoint_dir=value),
        "checkpoint_dir",
        {"a number": 3, "nothing": "", "bytes": b"runs"},
    ),
    ("solve", lambda value: solved(checkpoint_seconds=value), "checkpoint_seconds", BAD_POSITIVES),
    ("solve", lambda value: solved(checkpoint_steps=value), "checkpoint_steps", OPTIONAL_COUNTS),
    ("evaluate", lambda value: evaluated(family=value), "family", BAD_FAMILIES),
    ("evaluate", lambda value: evaluated(functional=value), "functional", BAD_FUNCTIONS),
    (
        "evaluate",
        lambda value: evaluated(family=value),
        "functional needs the density",
        {"particles": swjko.particles(jnp.asarray(GOOD_X))},
    ),
    ("evaluate", lambda value: evaluated(num_samples=value), "num_samples", BAD_COUNTS),
    (
        "evaluate",
        lambda value: evaluated(num_repeats=value),
        "num_repeats",
        BAD_COUNTS | {"one": 1},
    ),
    (
        "symmetric_kl",
        lambda value: symmetric_kl(family=value),
        "family",
        BAD_FAMILIES | {"no density": swjko.particles(jnp.asarray(GOOD_X))},
    ),
    (
        "symmetric_kl",
        lambda value: symmetric_kl(target_log_prob=value),
        "target_log_prob",
        BAD_FUNCTIONS,
    ),
    (
        "symmetric_kl",
        lambda value: symmetric_kl(target_sample=value),
        "target_sample",
        BAD_POINTS
        | {
            "dimension": np.ones((M, 3), np.float32),
            "a function": lambda key, num: jnp.ones((num, 3)),
        },
    ),
    (
        "symmetric_kl",
        lambda value: symmetric_kl(num_samples=value),
        "num_samples",
        BAD_COUNTS | {"one": 1},
    ),
    ("replay", lambda value: replayed(family=value), "family", BAD_FAMILIES),
    ("replay", lambda value: replayed(num=value), "num", BAD_COUNTS),
    (
        "replay",
        lambda value: replayed(params_trajectory=value),
        "params_trajectory",
        {"nothing": None, "points": GOOD_X, "no times": swjko.gaussian(D).init(KEY)},
    ),
]
CASES = [
    pytest.param(call, value, name, id=f"{function}-{name}-{what}")
    for function, call, name, bad in TABLE
    for what, value in bad.items()
]


@pytest.mark.parametrize(("call", "value", "name"), CASES)
def test_a_bad_input_is_named(call, value, name):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(value)
    assert re.search(rf"\b{name}" if name[0].isalpha() else name, str(caught.value).replace("`", ""))
    # The package's own words, or one line of JAX: no page of XLA, and no failure of the shape checks of the tests.
    assert type(caught.value).__name__ not in (
        "TypeCheckError",
        "XlaRuntimeError",
        "JaxRuntimeError",
    )


def test_there_are_enough_cases():
    assert len(CASES) >= 200


def test_the_good_inputs_are_accepted():
    # So that no row of the table fails for a reason other than its own.
    for good in (
        line,
        isotropic_step,
        gaussian_step,
        second_order_step,
        ornstein_uhlenbeck,
        to_target,
        pushed,
        evaluated,
        symmetric_kl,
        replayed,
        ran,
        ran_many,
        solved,
        solved_many,
        guarded,
        until_certified,
        scheme,
        second_order,
        adapted,
        moved_by_langevin,
        moved_by_slices,
        minimised,
        certified,
    ):
        good()
    for function in (swjko.sliced_wasserstein_pow, swjko.sliced_wasserstein):
        sliced(function)
    w2(closed_form.gaussian_w2_pow)
    w2(closed_form.gaussian_sw2_pow, GOOD_DIRECTIONS)


def test_messages_say_the_value_and_the_cure():
    with pytest.raises(
        ValueError, match=r"x must have rank 2.*got shape \(4,\).*x\[:, None\]"
    ):
        sliced(swjko.sliced_wasserstein_pow, x=GOOD_X[:, 0])
    with pytest.raises(
        ValueError,
        match=r"x_weights must sum to one; got a sum of 2\. .*x_weights / x_weights\.sum\(\)",
    ):
        sliced(swjko.sliced_wasserstein_pow, x_weights=np.full(N, 0.5))
    with pytest.raises(ValueError, match=r"x must be finite; got NaN or infinity in 1 of 8 entries"):
        sliced(swjko.sliced_wasserstein_pow, x=NAN_X)
    with pytest.raises(
        ValueError, match=r"unit vectors; got norms between 2 and 2.*swjko\.uniform_directions"
    ):
        sliced(swjko.sliced_wasserstein_pow, directions=2 * GOOD_DIRECTIONS)
    with pytest.raises(
        TypeError, match=r"x must be real floating point; got dtype int.*astype"
    ):
        sliced(swjko.sliced_wasserstein_pow, x=np.ones((N, D), int))


def test_shapes_are_checked_inside_jit_and_values_are_not():
    with pytest.raises(ValueError, match="x and y must have the same dimension"):
        jax.jit(swjko.sliced_wasserstein_pow)(GOOD_X, np.ones((M, 3), np.float32), GOOD_DIRECTIONS)
    with pytest.raises(ValueError, match="x_weights must have one weight"):
        jax.jit(lambda weights: sliced(swjko.sliced_wasserstein_pow, x_weights=weights))(
            np.ones(2, np.float32)
        )
    # Traced weights are divided by their sum.
    doubled = jax.jit(lambda weights: sliced(swjko.sliced_wasserstein_pow, x_weights=weights))(
        np.full(N, 0.5, np.float32)
    )
    np.testing.assert_allclose(doubled, sliced(swjko.sliced_wasserstein_pow), rtol=1e-6)
    assert np.isnan(
        jax.jit(lambda x: sliced(swjko.sliced_wasserstein_pow, x=x))(NAN_X.astype(np.float32))
    )


def test_step_sizes_may_be_swept_where_they_are_leaves():
    sweep = jax.vmap(lambda step_size: isotropic_step(step_size=step_size).scale)(
        jnp.asarray([0.1, 0.2])
    )
    np.testing.assert_allclose(
        sweep, [isotropic_step(step_size=0.1).scale, isotropic_step(step_size=0.2).scale], rtol=1e-6
    )


def test_numpy_lists_and_wide_floats_are_welcome():
    expected = sliced(swjko.sliced_wasserstein_pow)
    for x in (GOOD_X.tolist(), jnp.asarray(GOOD_X), GOOD_X.astype(np.float64)):
        np.testing.assert_allclose(sliced(swjko.sliced_wasserstein_pow, x=x), expected, rtol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (np.int64(3), 3), (jnp.asarray(3), 3)])
def test_counts_may_be_any_integer_that_is_known(value, expected):
    count = validation.as_count(value, "count")
    assert count == expected
    assert type(count) is int


def test_a_traced_count_is_refused():
    with pytest.raises(TypeError, match="num must be a static integer"):
        jax.jit(lambda num: swjko.uniform_directions(KEY, num, 2))(3)
    with pytest.raises(TypeError, match="p must be a static number"):
        jax.jit(lambda p: line(p=p))(2.0)
