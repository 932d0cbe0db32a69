"""Wrong arguments raise ValueError or TypeError that names the argument, before compilation."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType

import swjko
from swjko import closed_form, flows, plots, problems
from swjko.families import preprocessing
from swjko.types import validation

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
BAD_KEYS = {"a seed": 0, "nothing": None}
BAD_MANY_KEYS = BAD_KEYS | {"rank 2": jax.random.split(KEY, (2, 2))}
BAD_STEP_SIZES = BAD_POSITIVES | {"a list": [0.1, 0.2]}
BAD_MEANS = {"too many": np.ones(3), "NaN": float("nan"), "text": "a"}
BAD_SCALES = BAD_POSITIVES | {"too many": ONES.repeat(2)}
BAD_OPTIMIZERS = {"nothing": None, "a rate": 1e-3, "a class": optax.adam}
TOO_FEW = BAD_COUNTS | {"one": 1}
OTHER_DIM = {"dimension": np.ones((M, 3), np.float32)}


def log_prob(x):
    return -jnp.sum(x**2) / 2


def broken(**changes):
    """A mapping without its Nones."""
    return {name: value for name, value in changes.items() if value is not None}


GAUSSIAN, PARTICLES = swjko.gaussian(D), swjko.particles(jnp.asarray(GOOD_X))
PARAMS, KEYS = GAUSSIAN.init(KEY), jax.random.split(KEY, 2)
UPDATES = {"num_inner_steps": 1, "num_samples": N}
JKO = {"family": GAUSSIAN, "functional": swjko.potential(jnp.sum), "optimizer": optax.sgd(0.1)}
STEPS = {"step_size": 0.1, "num_projections": 2, **UPDATES}
SCHEME, SECOND_ORDER = swjko.sw_jko(**JKO, **STEPS), swjko.sw_bdf2(**JKO, **STEPS)
DIRECT = swjko.direct_minimization(**JKO, **UPDATES)
ADAPTIVE = swjko.adaptive(SCHEME, min_step_size=0.01, max_step_size=1.0)
LANGEVIN = swjko.langevin(jnp.asarray(GOOD_X), log_prob, step_size=0.1)
SWEPT = dataclasses.replace(SCHEME, step_size=jnp.asarray([0.1, 0.2, 0.3]))
SWEPT_AXES = dataclasses.replace(jax.tree.map(lambda leaf: None, SCHEME), step_size=0)
TWO_MEASURES = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), PARAMS)
STEP = {"mean": ONES, "cov": EYE, "precision": EYE, "center": ONES, "step_size": 0.1}
PAIR = {"mean0": ONES, "cov0": EYE, "mean1": ONES, "cov1": EYE}
BAD_PAIR = {name: BAD_VECTORS if "mean" in name else BAD_SQUARES for name in PAIR}

# Arguments with which a function runs.
GOOD = {
    swjko.uniform_directions: {"key": KEY, "num": 2, "dim": 2},
    swjko.orthogonal_directions: {"key": KEY, "num": 2, "dim": 2},
    swjko.recommended_directions: {"key": KEY, "num": 2, "dim": 2},
    swjko.wasserstein_1d_pow: {"u": GOOD_X[:, 0], "v": GOOD_Y[:, 0]},
    swjko.sliced_wasserstein_pow: {"x": GOOD_X, "y": GOOD_Y, "directions": GOOD_DIRECTIONS},
    swjko.sliced_wasserstein: {"x": GOOD_X, "y": GOOD_Y, "directions": GOOD_DIRECTIONS},
    closed_form.gaussian_w2_pow: PAIR,
    closed_form.gaussian_sw2_pow: PAIR | {"directions": GOOD_DIRECTIONS},
    closed_form.gaussian_sw_jko_step: STEP | {"directions": GOOD_DIRECTIONS},
    closed_form.gaussian_sw_bdf2_step: STEP
    | {"previous_mean": ONES, "previous_cov": EYE, "directions": GOOD_DIRECTIONS},
    closed_form.isotropic_sw_jko_step: {
        "mean": ONES,
        "scale": 1.0,
        "center": ONES,
        "step_size": 0.1,
    },
    closed_form.ornstein_uhlenbeck: {
        "mean": ONES,
        "cov": EYE,
        "precision": EYE,
        "center": ONES,
        "time": 1.0,
    },
    swjko.potential: {"v": jnp.sum},
    swjko.internal_energy: {"f": jnp.square},
    swjko.mmd_to_target: {"target": GOOD_Y, "kernel": jnp.sum},
    swjko.interaction: {"w": jnp.sum},
    swjko.nearest_neighbour_negative_entropy: {},
    swjko.kl_divergence: {"target_log_prob": log_prob},
    swjko.sw_to_target: {"target": GOOD_Y, "num_projections": 3},
    swjko.particles: {"points": jnp.asarray(GOOD_X)},
    swjko.gaussian: {"dim": D},
    swjko.gaussian_mixture: {"dim": D, "num_components": 3},
    flows.coupling: {"dim": D},
    flows.cnf: {"dim": D},
    flows.icnn: {"dim": D},
    flows.mlp: {"latent_dim": D, "dim": D},
    flows.from_nnx: {"make_model": lambda rngs: nnx.Linear(D, D, rngs=rngs), "dim": D},
    swjko.pushforward: {
        "init": lambda key: jnp.zeros(D),
        "transform": lambda params, z: z + params[None, :],
        "dim": D,
    },
    swjko.sample: {"family": GAUSSIAN, "params": PARAMS, "key": KEY, "num": 3},
    swjko.sw_jko: JKO | STEPS,
    swjko.sw_bdf2: JKO | STEPS,
    swjko.direct_minimization: JKO | UPDATES,
    swjko.drifting: JKO | UPDATES | {"step_size": 0.1, "num_drift_steps": 1},
    swjko.adaptive: {"scheme": SCHEME, "min_step_size": 0.01, "max_step_size": 1.0},
    swjko.langevin: {"points_init": GOOD_X, "log_prob": log_prob, "step_size": 0.1},
    swjko.sliced_flow: {
        "points_init": GOOD_X,
        "target": GOOD_Y,
        "step_size": 0.1,
        "num_projections": 2,
    },
    swjko.certificate: {
        "key": KEY,
        "scheme": SCHEME,
        "trajectory": TWO_MEASURES,
        "num_samples": 4,
        "num_repeats": 2,
    },
    swjko.run: {"key": KEY, "scheme": SCHEME, "state": SCHEME.init(KEY), "num_steps": 1},
    swjko.run_many: {"keys": KEYS, "scheme": SCHEME, "num_steps": 1},
    swjko.stack_flows: {"schemes": [SCHEME, SCHEME]},
    swjko.flow_mesh: {},
    swjko.shard_flows: {"tree": jnp.ones(8), "mesh": swjko.flow_mesh()},
    swjko.guarded: {"scheme": SCHEME},
    swjko.until_stationary: {},
    swjko.until_certified: {"key": KEY, "scheme": SCHEME, "num_samples": 4, "num_repeats": 2},
    swjko.solve: {"key": KEY, "scheme": SCHEME, "num_steps": 1, "progress": False},
    swjko.evaluate: {
        "key": KEY,
        "family": GAUSSIAN,
        "functional": swjko.negative_entropy(),
        "params": PARAMS,
        "num_samples": 4,
    },
    swjko.symmetric_kl: {
        "key": KEY,
        "family": GAUSSIAN,
        "params": PARAMS,
        "target_log_prob": log_prob,
        "target_sample": GOOD_X,
        "num_samples": 4,
    },
    swjko.replay: {
        "key": KEY,
        "family": GAUSSIAN,
        "params_trajectory": TWO_MEASURES,
        "num": 4,
    },
}


class _BatchNormalised(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(D, rngs=rngs)

    def __call__(self, z):
        return self.norm(z)


def three_coordinates(rngs):
    return nnx.Linear(D, 3, rngs=rngs)


def row(function, given=None, message=None, **bad):
    """Cases of bad values for named arguments; the message must hold the name, or ``message``."""
    good = GOOD[function] | (given or {})
    for name, values in bad.items():
        for what, value in values.items():
            case = f"{function.__name__}-{name}-{what}-{message or ''}"
            yield pytest.param(function, good | {name: value}, message or name, id=case)


MIXES = BAD_WORDS | {"in capitals": "LU"}
NOT_UNIT_INTERVAL = {"zero": 0.0, "one": 1.0, "negative": -0.5, "NaN": float("nan"), "text": "half"}
NO_PAIRS = {
    "rank 2": lambda params, z: (z, z),
    "rank 0": lambda params, z: (z, jnp.zeros(())),
    "no pair": lambda params, z: z,
}
ENTROPIES = {
    "entropy": swjko.negative_entropy(),
    "KL": swjko.kl_divergence(log_prob),
    "a sum": swjko.weighted_sum((1.0, swjko.negative_entropy())),
}
SIZES = {"dim": BAD_COUNTS, "init_mean": BAD_MEANS, "init_scale": BAD_SCALES}
ONE_KEY = {"for one key": jax.make_mesh((8,), ("flow",), axis_types=(AxisType.Auto,))}
WITH_INVERSE = {"inverse": lambda params, x: (x, x[:, 0])}
ROWS = [
    row(swjko.uniform_directions, key=BAD_KEYS, num=BAD_COUNTS, dim=BAD_COUNTS),
    row(swjko.orthogonal_directions, key=BAD_KEYS, num=BAD_COUNTS, dim=BAD_COUNTS),
    row(swjko.recommended_directions, num=BAD_COUNTS, dim=BAD_COUNTS),
    row(swjko.wasserstein_1d_pow, u=BAD_VALUES, v=BAD_VALUES, u_weights=BAD_WEIGHTS, p=BAD_POWERS),
    row(swjko.wasserstein_1d_pow, {"v": GOOD_X[:, 0]}, v_weights=BAD_WEIGHTS),
    *(
        row(
            function,
            x=BAD_POINTS,
            y=BAD_POINTS,
            directions=BAD_DIRECTIONS,
            x_weights=BAD_WEIGHTS,
            # The limit of infinite order is a distance, and its power is not a number.
            p={
                name: value
                for name, value in BAD_POWERS.items()
                if function is not swjko.sliced_wasserstein or name != "infinite"
            },
            block_size=OPTIONAL_COUNTS,
        )
        for function in (swjko.sliced_wasserstein_pow, swjko.sliced_wasserstein)
    ),
    row(swjko.sliced_wasserstein_pow, {"y": GOOD_X}, y_weights=BAD_WEIGHTS),
    row(swjko.sliced_wasserstein_pow, message="x and y", y=OTHER_DIM),
    row(closed_form.gaussian_w2_pow, **BAD_PAIR),
    row(closed_form.gaussian_sw2_pow, **BAD_PAIR, directions=BAD_DIRECTIONS),
    row(
        closed_form.gaussian_sw_jko_step,
        mean=BAD_VECTORS,
        center=BAD_VECTORS,
        cov=BAD_SQUARES | SINGULAR,
        precision=BAD_SQUARES,
        step_size=BAD_STEP_SIZES,
        directions=BAD_DIRECTIONS,
    ),
    row(
        closed_form.gaussian_sw_bdf2_step,
        mean=BAD_VECTORS,
        previous_mean=BAD_VECTORS,
        cov=BAD_SQUARES | SINGULAR,
        previous_cov=BAD_SQUARES,
        step_size=BAD_POSITIVES,
    ),
    row(
        closed_form.isotropic_sw_jko_step,
        mean=BAD_VECTORS,
        center=BAD_VECTORS,
        scale=BAD_POSITIVES,
        step_size=BAD_POSITIVES,
    ),
    row(
        closed_form.ornstein_uhlenbeck,
        mean=BAD_VECTORS,
        center=BAD_VECTORS,
        cov=BAD_SQUARES,
        precision=BAD_SQUARES | SINGULAR,
        time={"negative": -1.0, "NaN": float("nan")},
    ),
    row(swjko.potential, v=BAD_FUNCTIONS),
    row(swjko.internal_energy, f=BAD_FUNCTIONS),
    row(swjko.mmd_to_target, kernel=BAD_FUNCTIONS),
    row(swjko.interaction, w=BAD_FUNCTIONS, block_size=OPTIONAL_COUNTS),
    row(
        swjko.nearest_neighbour_negative_entropy,
        num_neighbours=BAD_COUNTS,
        block_size=OPTIONAL_COUNTS,
    ),
    row(swjko.kl_divergence, target_log_prob=BAD_FUNCTIONS),
    row(
        swjko.sw_to_target,
        target=BAD_POINTS,
        num_projections=BAD_COUNTS,
        batch_size=OPTIONAL_COUNTS | {"too many": M + 1},
        direction_fn=BAD_FUNCTIONS,
    ),
    row(swjko.particles, points=BAD_POINTS),
    *(row(make, **SIZES) for make in (swjko.gaussian, flows.coupling, flows.cnf, flows.icnn)),
    row(swjko.gaussian_mixture, **SIZES, num_components=BAD_COUNTS),
    row(flows.coupling, dim={"one": 1}, num_layers=BAD_COUNTS, width=BAD_COUNTS, mixing=MIXES),
    row(flows.coupling, {"mixing": "lu"}, num_layers={"too few": 2, "zero": 0, "text": "a"}),
    row(
        flows.cnf,
        **dict.fromkeys(("width", "num_layers", "num_integration_steps", "num_probes"), BAD_COUNTS),
        seed={"negative": -1, "a key": KEY},
        divergence=BAD_WORDS,
        solver={"text": "Tsit5", "a number": 5},
    ),
    row(
        flows.icnn,
        **dict.fromkeys(("width", "num_layers", "rank", "num_probes"), BAD_COUNTS),
        seed={"negative": -1, "a key": KEY},
        log_det=BAD_WORDS,
        strong_convexity=BAD_POSITIVES | {"that of the start": 1.0, "a vector": ONES},
    ),
    row(flows.mlp, **SIZES, latent_dim=BAD_COUNTS, num_layers=BAD_COUNTS, width=BAD_COUNTS),
    row(
        flows.from_nnx,
        make_model=BAD_FUNCTIONS | {"other state": _BatchNormalised},
        dim=BAD_COUNTS,
    ),
    row(
        flows.from_nnx,
        message="family of dimension 2",
        make_model={"three coordinates": three_coordinates},
    ),
    row(
        swjko.pushforward,
        init=BAD_FUNCTIONS,
        transform=BAD_FUNCTIONS,
        inverse={"a number": 3.0, "text": "f"},
        dim=BAD_COUNTS,
        latent_dim=OPTIONAL_COUNTS,
    ),
    row(
        swjko.pushforward,
        message="family of dimension 2",
        transform={
            "rank 1": lambda params, z: z[:, 0],
            "wide": lambda params, z: jnp.ones((len(z), 3)),
        },
    ),
    row(swjko.pushforward, {"latent_dim": 3}, inverse={"wide": WITH_INVERSE["inverse"]}),
    row(swjko.pushforward, WITH_INVERSE, transform=NO_PAIRS),
    row(swjko.pushforward, {"transform": lambda params, z: (z, z[:, 0])}, inverse=NO_PAIRS),
    row(swjko.sample, family=BAD_FAMILIES, num=BAD_COUNTS),
    row(
        swjko.sw_jko,
        family=BAD_FAMILIES,
        functional=BAD_FUNCTIONS,
        optimizer=BAD_OPTIMIZERS,
        step_size=BAD_STEP_SIZES,
        inner_tolerance=broken(**BAD_POSITIVES),
        num_inner_steps=BAD_COUNTS,
        num_samples=BAD_COUNTS,
        num_projections=BAD_COUNTS,
        direction_fn=BAD_FUNCTIONS,
    ),
    row(swjko.sw_jko, {"family": PARTICLES}, "functional needs the density", functional=ENTROPIES),
    row(
        swjko.sw_jko,
        message="functional must return a scalar",
        functional={"a vector": lambda key, cloud: cloud.points[0]},
    ),
    row(
        swjko.sw_jko,
        message="v must map one point",
        functional={"a vector": swjko.potential(lambda x: x)},
    ),
    row(
        swjko.sw_jko,
        message="directions",
        direction_fn={"of other dimension": lambda key, num, dim: jnp.ones((num, dim + 1))},
    ),
    row(
        swjko.sw_bdf2,
        family=BAD_FAMILIES | {"weights": swjko.grid(jnp.asarray(GOOD_X), 1.0)},
        step_size=BAD_POSITIVES,
        num_samples=BAD_COUNTS,
    ),
    row(
        swjko.adaptive,
        scheme={"nothing": None, "a family": GAUSSIAN, "of second order": SECOND_ORDER},
        min_step_size=BAD_POSITIVES | {"above the step size": 0.5},
        max_step_size=BAD_POSITIVES | {"below the step size": 0.05},
        growth={"below one": 0.5, "NaN": float("nan"), "text": "a", "nothing": None},
        saturation={"negative": -1.0, "infinite": float("inf"), "text": "a"},
        num_standard_errors={"negative": -1.0, "boolean": True},
        num_repeats=TOO_FEW,
        max_retries=BAD_COUNTS,
    ),
    row(
        swjko.langevin,
        points_init=BAD_POINTS,
        log_prob=BAD_FUNCTIONS | {"a vector": lambda x: x},
        step_size=BAD_STEP_SIZES,
        num_inner_steps=BAD_COUNTS,
    ),
    row(
        swjko.sliced_flow,
        points_init=BAD_POINTS,
        target=BAD_POINTS | OTHER_DIM,
        step_size=BAD_POSITIVES,
        num_projections=BAD_COUNTS,
        temperature={name: bad for name, bad in BAD_STEP_SIZES.items() if name != "zero"},
        direction_fn=BAD_FUNCTIONS,
        num_inner_steps=BAD_COUNTS,
    ),
    row(
        swjko.direct_minimization,
        family=BAD_FAMILIES,
        functional=BAD_FUNCTIONS,
        optimizer={"nothing": None},
        num_inner_steps=BAD_COUNTS,
        num_samples=BAD_COUNTS,
    ),
    row(
        swjko.drifting,
        family=BAD_FAMILIES,
        functional=BAD_FUNCTIONS,
        optimizer={"nothing": None},
        step_size=BAD_STEP_SIZES,
        num_drift_steps=BAD_COUNTS,
        num_inner_steps=BAD_COUNTS,
        num_samples=BAD_COUNTS,
        batch_size={name: bad for name, bad in BAD_COUNTS.items() if bad is not None},
        velocity={"text": "a", "a scalar": lambda key, points: jnp.sum(points)},
    ),
    row(
        swjko.certificate,
        scheme={"nothing": None, "of second order": SECOND_ORDER},
        num_samples=BAD_COUNTS,
        num_repeats=TOO_FEW,
        gradient_tolerance=BAD_POSITIVES,
        trajectory={"nothing": None, "points": GOOD_X, "no times": PARAMS},
        start={"points": GOOD_X},
    ),
    row(
        swjko.run,
        scheme={"nothing": None, "a family": swjko.gaussian},
        state={"nothing": None, "points": GOOD_X},
        num_steps=BAD_COUNTS,
        record=BAD_FUNCTIONS,
    ),
    row(
        swjko.run_many,
        keys=BAD_MANY_KEYS | {"one key": KEY, "none": jax.random.split(KEY, 0)},
        scheme={"nothing": None, "a list": [SCHEME]},
        num_steps=BAD_COUNTS,
        record=BAD_FUNCTIONS,
        axes={
            "one": 1,
            "minus one": -1,
            "boolean": False,
            "a name": "step_size",
            "a tuple": (0, None),
            "the scheme": SCHEME,
        },
        mesh=BAD_MESHES,
        batch_size=OPTIONAL_COUNTS,
    ),
    row(swjko.run_many, message="axes", scheme={"not said to be stacked": SWEPT}),
    row(
        swjko.run_many,
        {"axes": SWEPT_AXES},
        "step_size",
        scheme={"of another length": SWEPT, "not stacked": SCHEME},
    ),
    row(
        swjko.stack_flows,
        schemes={
            "nothing": None,
            "one scheme": SCHEME,
            "none": [],
            "two kinds": [SCHEME, SECOND_ORDER],
        },
    ),
    row(swjko.stack_flows, message="scheme", schemes={"a family": [GAUSSIAN]}),
    row(
        swjko.flow_mesh,
        devices={"none": [], "a number": 8, "a name": "cpu", "numbers": [0, 1]},
        projection_devices=BAD_COUNTS | {"no divisor": 3, "more than there are": 16},
    ),
    row(
        swjko.shard_flows,
        mesh=BAD_MESHES,
        tree={
            "no multiple": jnp.ones(6),
            "no flows": jnp.ones((0, 2)),
            "a scalar": jnp.ones(()),
            "two lengths": (jnp.ones(8), jnp.ones(16)),
        },
    ),
    row(
        swjko.guarded,
        scheme={
            "nothing": None,
            "a family": GAUSSIAN,
            "of second order": SECOND_ORDER,
            "adaptive": ADAPTIVE,
            "direct": DIRECT,
        },
        max_retries=BAD_COUNTS,
        factor=NOT_UNIT_INTERVAL | {"nothing": None},
        recovery=BAD_COUNTS,
    ),
    row(swjko.guarded, {"scheme": LANGEVIN}, scale_updates={"no optimizer": True}),
    row(swjko.until_stationary, num_standard_errors=BAD_POSITIVES),
    row(
        swjko.until_certified,
        key=BAD_MANY_KEYS,
        scheme={
            "nothing": None,
            "of second order": SECOND_ORDER,
            "guarded": swjko.guarded(SCHEME),
        },
        num_samples=BAD_COUNTS,
        num_repeats=TOO_FEW,
        axes={"for one key": 0},
        gradient_tolerance=BAD_STEP_SIZES,
        num_standard_errors=BAD_STEP_SIZES,
    ),
    row(swjko.until_certified, {"key": KEYS}, axes={"one": 1, "a name": "step_size"}),
    row(
        swjko.solve,
        key=BAD_MANY_KEYS,
        axes={"for one key": 0},
        mesh=ONE_KEY,
        batch_size={"for one key": 2},
        stop={"a number": 3.0, "text": "early"},
        stop_steps=BAD_COUNTS,
        scheme={"nothing": None, "a family": swjko.gaussian},
        num_steps=BAD_COUNTS,
        chunk_size=OPTIONAL_COUNTS,
        record=BAD_FUNCTIONS,
        checkpoint_dir={"a number": 3, "nothing": "", "bytes": b"runs"},
        checkpoint_seconds=BAD_POSITIVES,
        checkpoint_steps=OPTIONAL_COUNTS,
    ),
    row(swjko.solve, message="keys", key={"none": jax.random.split(KEY, 0)}),
    row(
        swjko.solve,
        {"stop_steps": 1},
        stop={
            "returns a number": lambda state, history: 1.0,
            "returns nothing": lambda state, history: None,
            "returns two": lambda state, history: np.asarray([True, False]),
        },
    ),
    row(swjko.solve, {"stop": swjko.until_stationary()}, stop_steps={"too few": 1}),
    row(
        swjko.solve,
        {"key": KEYS},
        axes={"one": 1, "a name": "step_size", "the scheme": SCHEME},
        mesh=BAD_MESHES,
        batch_size=OPTIONAL_COUNTS,
    ),
    row(swjko.solve, {"key": KEYS}, "axes", scheme={"not said to be stacked": SWEPT}),
    row(
        swjko.evaluate,
        family=BAD_FAMILIES,
        functional=BAD_FUNCTIONS,
        num_samples=BAD_COUNTS,
        num_repeats=TOO_FEW,
    ),
    row(swjko.evaluate, message="functional needs the density", family={"particles": PARTICLES}),
    row(
        swjko.symmetric_kl,
        family=BAD_FAMILIES | {"no density": PARTICLES},
        target_log_prob=BAD_FUNCTIONS,
        target_sample=BAD_POINTS | OTHER_DIM | {"a function": lambda key, num: jnp.ones((num, 3))},
        num_samples=TOO_FEW,
    ),
    row(
        swjko.replay,
        family=BAD_FAMILIES,
        num=BAD_COUNTS,
        params_trajectory={"nothing": None, "points": GOOD_X, "no times": PARAMS},
    ),
]


@pytest.mark.parametrize(("function", "inputs", "name"), [case for one in ROWS for case in one])
def test_a_bad_input_is_named(function, inputs, name):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(**inputs)
    assert re.search(rf"\b{name}", str(caught.value).replace("`", ""))
    # Neither XLA's pages nor the shape checks of the tests.
    foreign = ("TypeCheckError", "XlaRuntimeError", "JaxRuntimeError")
    assert type(caught.value).__name__ not in foreign


@pytest.mark.parametrize(
    "term",
    [
        (),
        (swjko.negative_entropy(),),
        ((1.0, 2.0),),
        ((swjko.negative_entropy(), 1.0),),
        (("a", swjko.negative_entropy()),),
        ((np.ones(2), swjko.negative_entropy()),),
    ],
)
def test_bad_terms_of_a_sum_are_named(term):
    with pytest.raises((ValueError, TypeError), match=r"\(coef, functional\)"):
        swjko.weighted_sum(*term)


@pytest.mark.slow_except_first
@pytest.mark.parametrize("function", GOOD, ids=lambda function: function.__name__)
def test_the_good_inputs_are_accepted(function):
    # So no row of the table fails for a reason other than its own.
    function(**GOOD[function])


def sliced(function=swjko.sliced_wasserstein_pow, **changes):
    return function(**(GOOD[function] | changes))


def test_messages_say_the_value_and_the_cure():
    with pytest.raises(ValueError, match=r"x must have rank 2.*got shape \(4,\).*x\[:, None\]"):
        sliced(x=GOOD_X[:, 0])
    with pytest.raises(
        ValueError,
        match=r"x_weights must sum to one; got a sum of 2\. .*x_weights / x_weights\.sum\(\)",
    ):
        sliced(x_weights=np.full(N, 0.5))
    with pytest.raises(
        ValueError, match=r"x must be finite; got NaN or infinity in 1 of 8 entries"
    ):
        sliced(x=NAN_X)
    with pytest.raises(
        ValueError, match=r"unit vectors; got norms between 2 and 2.*swjko\.uniform_directions"
    ):
        sliced(directions=2 * GOOD_DIRECTIONS)
    with pytest.raises(TypeError, match=r"x must be real floating point; got dtype int.*astype"):
        sliced(x=np.ones((N, D), int))


def test_shapes_are_checked_inside_jit_and_values_are_not():
    with pytest.raises(ValueError, match="x and y must have the same dimension"):
        jax.jit(swjko.sliced_wasserstein_pow)(GOOD_X, np.ones((M, 3), np.float32), GOOD_DIRECTIONS)
    with pytest.raises(ValueError, match="x_weights must have one weight"):
        jax.jit(lambda weights: sliced(x_weights=weights))(np.ones(2, np.float32))
    # Traced weights are divided by their sum.
    doubled = jax.jit(lambda weights: sliced(x_weights=weights))(np.full(N, 0.5, np.float32))
    np.testing.assert_allclose(doubled, sliced(), rtol=1e-6)
    assert np.isnan(jax.jit(lambda x: sliced(x=x))(NAN_X.astype(np.float32)))


def test_step_sizes_may_be_swept_where_they_are_leaves():
    def scale(step_size):
        law = closed_form.isotropic_sw_jko_step(ONES, 1.0, ONES, step_size)
        return law.scale

    sweep = jax.vmap(scale)(jnp.asarray([0.1, 0.2]))
    np.testing.assert_allclose(sweep, [scale(0.1), scale(0.2)], rtol=1e-6)


def test_numpy_lists_and_wide_floats_are_welcome():
    expected = sliced()
    for x in (GOOD_X.tolist(), jnp.asarray(GOOD_X), GOOD_X.astype(np.float64)):
        np.testing.assert_allclose(sliced(x=x), expected, rtol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (np.int64(3), 3), (jnp.asarray(3), 3)])
def test_counts_may_be_any_integer_that_is_known(value, expected):
    count = validation.as_count(value, "count")
    assert count == expected
    assert type(count) is int


def test_a_traced_count_is_refused():
    with pytest.raises(TypeError, match="num must be a static integer"):
        jax.jit(lambda num: swjko.uniform_directions(KEY, num, 2))(3)
    with pytest.raises(TypeError, match="p must be a static number"):
        jax.jit(lambda p: swjko.wasserstein_1d_pow(ONES, ONES, p=p))(2.0)


class _Equinox:
    """Stands for a module of equinox, which need not be installed."""

    __module__ = "equinox._module"

    def __call__(self, x):
        return x


class _Haiku(tuple):
    __module__ = "haiku._src.transform"


@pytest.mark.parametrize(
    ("model", "cure"),
    [
        (linen.Dense(1), r"lambda x: module\.apply\(variables, x\).*swjko\.flows\.from_linen"),
        (_Equinox(), r"jax\.tree_util\.Partial\(lambda model, x: model\(x\), model\)"),
        (_Haiku(), r"lambda x: transformed\.apply\(params, None, x\)"),
    ],
)
def test_models_in_place_of_functions_are_told_what_to_use(model, cure):
    kind = type(model).__name__
    for call in (
        lambda: swjko.potential(model),
        lambda: swjko.kl_divergence(model),
        lambda: swjko.langevin(GOOD_X, model, step_size=0.1),
        lambda: swjko.sw_jko(**(JKO | {"functional": model}), **STEPS),
    ):
        with pytest.raises(
            TypeError, match=rf"must be a function .*; got the model {kind}\. Pass {cure}"
        ):
            call()
    with pytest.raises(TypeError, match=r"`family` must be.*swjko\.flows\.from_nnx"):
        swjko.sw_jko(**(JKO | {"family": model}), **STEPS)


def test_models_of_nnx_are_told_how_to_become_families():
    model = nnx.Linear(D, D, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"`family` must be.*swjko\.flows\.from_nnx"):
        swjko.sample(model, PARAMS, KEY, 3)
    with pytest.raises(
        TypeError, match=r"make_model must be.*lambda rngs: Linear\(\.\.\., rngs=rngs\)"
    ):
        flows.from_nnx(model, dim=D)
    with pytest.raises(TypeError, match=r"module must be a flax\.linen\.Module.*Use from_nnx"):
        flows.from_linen(model, dim=D)


@pytest.mark.parametrize("read", [lambda x: x["mu"], lambda x: x.mu], ids=["dict", "record"])
def test_a_function_of_a_dictionary_is_told_of_raveled(read):
    def named(x):
        return -(read(x) ** 2)

    distribution = swjko.FlowDistribution(GAUSSIAN, PARAMS)
    for call, name in (
        (
            lambda: swjko.sw_jko(**(JKO | {"functional": swjko.kl_divergence(named)}), **STEPS),
            "target_log_prob",
        ),
        (lambda: swjko.langevin(GOOD_X, named, step_size=0.1), "log_prob"),
        (lambda: swjko.importance(KEY, distribution, named, 32), "target_log_prob"),
        (lambda: swjko.rejection(KEY, distribution, named), "target_log_prob"),
        (lambda: swjko.laplace(named, jnp.zeros(2)), "log_prob"),
    ):
        with pytest.raises(TypeError, match=rf"`{name}` must map .* by names .*swjko\.raveled"):
            call()


def test_a_missing_name_of_a_module_is_not_taken_for_one_of_a_point():
    with pytest.raises(AttributeError, match=r"module 'jax\.numpy' has no attribute 'summ'"):
        swjko.langevin(GOOD_X, lambda x: getattr(jnp, "summ")(x), step_size=0.1)  # noqa: B009


@pytest.mark.slow
def test_a_function_that_returns_a_dictionary_is_named():
    def named(x):
        return {"log_prob": -jnp.sum(x**2)}

    message = r"must map one point of shape \(2,\) to a scalar; got a dict\. .*one entry"
    distribution = swjko.FlowDistribution(GAUSSIAN, PARAMS)
    for call, name in (
        (
            lambda: swjko.sw_jko(**(JKO | {"functional": swjko.kl_divergence(named)}), **STEPS),
            "target_log_prob",
        ),
        (lambda: swjko.sw_jko(**(JKO | {"functional": swjko.interaction(named)}), **STEPS), "w"),
        (lambda: swjko.langevin(GOOD_X, named, step_size=0.1), "log_prob"),
        (lambda: swjko.importance(KEY, distribution, named, 32), "target_log_prob"),
        (
            lambda: swjko.symmetric_kl(KEY, GAUSSIAN, PARAMS, named, GOOD_X, num_samples=4),
            "target_log_prob",
        ),
    ):
        with pytest.raises(TypeError, match=f"`{name}` {message}"):
            call()


@pytest.mark.slow
def test_lists_are_arrays():
    points, others, directions = GOOD_X.tolist(), GOOD_Y.tolist(), GOOD_DIRECTIONS.tolist()
    halves = [0.5, 0.5]
    np.testing.assert_allclose(
        swjko.sliced_displacement(points, others, directions, x_weights=[0.25] * N),
        swjko.sliced_displacement(jnp.asarray(GOOD_X), GOOD_Y, GOOD_DIRECTIONS),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        swjko.wasserstein_1d_potentials([0.0, 1.0], [1.0, 3.0], u_weights=halves)[0],
        swjko.wasserstein_1d_potentials(np.arange(2.0), np.array([1.0, 3.0]))[0],
    )
    assert swjko.langevin(points, log_prob, step_size=0.1).family.points.shape == (N, D)
    coef_and_functional = [2.0, swjko.potential(jnp.sum)]
    value = swjko.weighted_sum(coef_and_functional)(KEY, swjko.Cloud(jnp.asarray(GOOD_X)))
    np.testing.assert_allclose(value, 2.0 * GOOD_X.sum(axis=1).mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: problems.gaussian([0.0, 0.0], [[1.0, 0.0], [0.0]]), "cov"),
        (lambda: problems.gaussian(0.0, 1.0), "mean"),
        (lambda: problems.gaussian([0.0, np.nan], np.eye(2)), "mean"),
        (lambda: problems.gaussian({}, np.eye(2)), "mean"),
        (lambda: jax.jit(lambda mean: problems.gaussian(mean, EYE).dim)(ONES), "mean"),
        (lambda: preprocessing.scale([0.0, [1.0]], 2.0), "`low`"),
        (lambda: preprocessing.interval({}, 2.0), "`low`"),
        (lambda: plots.cloud([0.0, 1.0]), "points"),
        (lambda: plots.energy([1.0, 2.0]), "history"),
        (lambda: plots.proximity((SCHEME.init(KEY), None)), "history"),
        (lambda: plots.progress(GOOD_X), "history"),
        (lambda: swjko.gaussian_moments([1.0, 2.0]), "params"),
        (lambda: plots.cloud(GOOD_X, target=[[0.0], [1.0, 2.0]]), "target"),
        (lambda: plots.clouds([[[0.0, 1.0], [1.0, 2.0]], [[0.0, 1.0]]], [0.0, 1.0]), "points"),
    ],
)
def test_what_is_no_array_of_the_right_shape_is_named(call, name):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be|^{name} must have"):
        call()
