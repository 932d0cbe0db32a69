"""The JKO scheme in Wasserstein space by input convex networks: mu_{k+1} = argmin_mu W_2^2(mu, mu_k) / (2 step_size) + F(mu).

By Brenier's theorem the optimal map from mu_k is the gradient of a convex psi, and W_2^2 is what it moves, so a step minimises

    E_{x ~ mu_k} |grad psi(x) - x|^2 / (2 step_size) + F((grad psi)_# mu_k)

over input convex networks psi (``swjko.networks.convex``). Sources: Mokrov, Korotin, Li, Genevay, Solomon, Burnaev, "Large-scale Wasserstein
gradient flows" (2021), arXiv 2106.00736; Alvarez-Melis, Schiff, Mroueh (2021), arXiv 2106.00774; Bunne, Meng-Papaxanthos, Krause, Cuturi
(2021), arXiv 2106.06345. Four choices are ours:

- kept points: a pool of points of mu_k is in the state, and each step pushes it once through its own map, so a step costs the same however
  many came before, and no gradient passes an earlier map. The pool carries log rho_k and the score grad log rho_k along: with y = T(x)
  and H = DT(x), log rho_{k+1}(y) = log rho_k(x) - log det H and grad log rho_{k+1}(y) = H^{-1} (grad log rho_k(x) - grad log det H);
- path gradients: log rho is differentiated through the points alone, along the score of the current map, and not through the
  parameters in it (Roeder, Wu, Duvenaud 2017, arXiv 1703.09194). At the exact step (T(x) - x) / step_size + grad V + grad log rho_{k+1}
  vanishes at each point, so the gradient has no noise there, and a finite pool no bias;
- frames: each map works in coordinates along the principal axes of its pool, around its mean, and its network in units of their standard
  deviations, so that one learning rate suits narrow measures far from the origin as well. psi starts at |x|^2 / 2, the identity. (Starts
  from the map of the last step were worse at equal updates between Gaussians: what its network had learnt of noise stayed.)
- a quadratic and linear part of psi with a learning rate of its own (``swjko.networks.convex.ConvexPotential``): its maps alone make all steps
  between Gaussians.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from swjko import validation
from swjko.families.base import Family, standard_normal_log_prob
from swjko.functionals.energies import is_entropy_like, needs_density
from swjko.schemes.base import Info, Result
from swjko.schemes.sw_jko import _result
from swjko.types import Cloud, Functional, Key, Leaf, Params, Scalar, as_partial, static_field


def icnn_jko(
    dim: int,
    functional: Functional,
    optimizer: optax.GradientTransformation,
    *,
    step_size: float | Scalar,
    num_inner_steps: int,
    num_samples: int,
    num_points: int = 4096,
    max_steps: int = 100,
    width: int = 64,
    num_layers: int = 2,
    rank: int = 4,
    strong_convexity: float = 1e-3,
    log_det: str = "exact",
    num_probes: int = 1,
    seed: int = 0,
    path_gradient: bool = True,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> "ICNNJKO":
    """A scheme whose ``step`` is one Wasserstein JKO step by an input convex network, from mu_0 = N(init_mean, init_scale^2 I).

    Args:
      dim: dimension of the points, 1 included.
      functional: F.
      optimizer: from optax; it starts afresh at each JKO step, so a schedule runs over ``num_inner_steps``. Adam from 5e-3 suits targets
        near Gaussians, from 1e-2 those of separate modes, whose steps ask more of the network.
      step_size: tau, in units of Wasserstein time (an SW flow resembles it d times faster).
      num_inner_steps: optimiser updates in one JKO step.
      num_samples: points for each update, drawn from the pool in epochs.
      num_points: size of the pool, at least num_samples; pushed once a step.
      max_steps: maps that the state has room for. A step beyond them is not taken and its result is STEP_LIMIT.
      width, num_layers, rank, strong_convexity: of the networks, as for ``swjko.flows.icnn``.
      log_det, num_probes, seed: "exact" or "stochastic" log-determinants, as for ``swjko.flows.icnn``. Path gradients need exact ones, and
        are not taken with the others. The family of an "exact" scheme of the same sizes takes the same params: measure with it.
      path_gradient: see the module's text. Path gradients are taken where the functional is entropy-like, see ``swjko.functionals``.
      init_mean, init_scale: numbers, or one per coordinate.

    ``scheme.family`` is the set of images of mu_0 under up to max_steps maps: its params are those of the maps, stacked, and their number,
    so ``state.params`` holds the whole flow and ``scheme.after(params, num)`` the measure num steps from the start. Sampling costs one
    map for each step taken; ``log_prob`` inverts them by Newton's method. ``info`` holds estimates on num_samples points of the pool;
    ``info.proximity`` is E |grad psi(x) - x|^2 / (2 step_size), which is W_2^2(new, old) / (2 step_size) of measures.

    Raises ValueError or TypeError on numbers below their minimum, on things of the wrong kind, and on whatever goes wrong when the
    objective's shapes are evaluated, all before anything is compiled.

    Example::

        scheme = icnn_jko(2, kl_divergence(lambda x: -jnp.sum(x**2) / 2), optax.adam(optax.cosine_decay_schedule(5e-3, 150)),
                          step_size=0.1, num_inner_steps=150, num_samples=256)
        state, infos = run(key, scheme, scheme.init(init_key), 10, record=swjko.infos)
    """
    from swjko.networks import convex

    validation.require_callable(functional, "functional", "(key, cloud) -> scalar")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax GradientTransformation, such as optax.adam(3e-3); received {type(optimizer).__name__}."
        )
    dim, num_samples = (
        validation.as_count(dim, "dim"),
        validation.as_count(num_samples, "num_samples"),
    )
    if (num_points := validation.as_count(num_points, "num_points")) < num_samples:
        raise ValueError(
            f"num_points must be at least num_samples, the {num_samples} points of one update; received {num_points}."
        )
    num_probes = validation.as_count(num_probes, "num_probes")
    exact = validation.as_choice(log_det, "log_det", ("exact", "stochastic")) == "exact"
    maps = convex.ConvexMaps(
        dim,
        validation.as_count(width, "width"),
        validation.as_count(num_layers, "num_layers"),
        validation.as_count(rank, "rank"),
        validation.as_fraction(
            strong_convexity,
            "strong_convexity",
            "the convexity of a potential that starts at |x|^2 / 2",
        ),
        None if exact else num_probes,
        validation.as_count(seed, "seed", minimum=0),
    )
    chain = _Chain(
        maps,
        *validation.as_start(dim, init_mean, init_scale),
        validation.as_count(max_steps, "max_steps"),
    )
    scheme = ICNNJKO(
        chain,
        functional if dataclasses.is_dataclass(functional) else as_partial(functional),
        validation.as_step_size(step_size),
        optimizer,
        validation.as_count(num_inner_steps, "num_inner_steps"),
        num_samples,
        num_points,
        bool(path_gradient) and exact and needs_density(functional) and is_entropy_like(functional),
    )
    _check_shapes(scheme)
    return scheme


class Pool(NamedTuple):
    """Points of a measure, its log-density and its score grad log rho at them. score is None where no gradient asks for it."""

    points: Float[Array, "n d"]
    log_density: Float[Array, " n"]
    score: Float[Array, "n d"] | None


class ICNNJKOState(NamedTuple):
    """A ``State`` with what the next step is made from.

    Attributes:
      params, time, step, result: as in ``swjko.State``.
      pool: the kept points.
    """

    params: Params
    time: Scalar
    step: Int[Array, ""]
    result: Int[Array, ""]
    pool: Pool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ICNNJKO:
    """Made by ``icnn_jko``. functional and step_size are leaves, and so are mean and scale of mu_0 in chain."""

    chain: "_Chain"
    functional: Any
    step_size: Leaf
    optimizer: optax.GradientTransformation = static_field()
    num_inner_steps: int = static_field()
    num_samples: int = static_field()
    num_points: int = static_field()
    path_gradient: bool = static_field()

    @property
    def family(self) -> Family:
        chain = self.chain
        return Family(
            Partial(_init, chain),
            Partial(_latent, chain),
            Partial(_push, chain),
            Partial(_log_prob, chain),
            chain.maps.dim,
            has_density=True,
        )

    def after(self, params: Params, num_steps: int | Int[Array, ""]) -> Params:
        """The params of the measure ``num_steps`` steps from the start, which later ones contain; the number may be traced."""
        return params | {
            "num_maps": jnp.minimum(jnp.asarray(num_steps, jnp.int32), params["num_maps"])
        }

    def init(self, key: Key) -> ICNNJKOState:
        """The state at mu_0, time 0, with a fresh pool."""
        z = _latent(self.chain, key, self.num_points)
        points, log_density = self.chain.start(z)
        pool = Pool(
            points, log_density, -z / self.chain.scale[None, :] if self.path_gradient else None
        )
        zero = jnp.zeros((), jnp.int32)
        return ICNNJKOState(
            _init(self.chain, key), jnp.zeros_like(self.step_size), zero, zero, pool
        )

    def step(self, key: Key, state: ICNNJKOState) -> tuple[ICNNJKOState, Info]:
        """One JKO step from ``state``; where it fails, or where there is no room for its map, the state stays and its code says why."""
        map_key, order_key, inner_key = jax.random.split(key, 3)
        order = jax.random.permutation(order_key, self.num_points)
        params, report = self._solve_inner(
            inner_key, self.chain.identity_around(map_key, state.pool.points), state.pool, order
        )
        pool = self._push_pool(params, state.pool)
        result = _result(state.result, report.objective, report.anchor_energy, (params, pool))
        full = (result == Result.OK) & (state.step >= self.chain.max_steps)
        result = jnp.where(full, Result.STEP_LIMIT, result).astype(state.result.dtype)
        keep = result == Result.OK
        slot = jnp.minimum(state.step, self.chain.max_steps - 1)
        maps = jax.tree.map(
            lambda slots, new: slots.at[slot].set(jnp.where(keep, new, slots[slot])),
            state.params["maps"],
            params,
        )
        step = state.step + keep
        state = ICNNJKOState(
            {"maps": maps, "num_maps": step},
            jnp.where(keep, state.time + self.step_size, state.time),
            step,
            result,
            jax.tree.map(lambda new, old: jnp.where(keep, new, old), pool, state.pool),
        )
        return state, Info(
            state.time,
            report.energy,
            report.proximity,
            report.objective,
            report.gradient_norm,
            result,
        )

    def objective_and_gradient(
        self, key: Key, params: Params, batch: Pool
    ) -> tuple[tuple[Scalar, tuple[Scalar, Scalar]], Params]:
        """One estimate, from points of the old measure: ((objective, (energy, proximity)), gradient in the network of one map)."""
        return jax.value_and_grad(self._objective, argnums=1, has_aux=True)(
            key, params["network"], params["frame"], batch
        )

    def _objective(self, key: Key, network: Params, frame: "_Frame", batch: Pool):
        params = {"frame": frame, "network": network}
        cloud = self._push_batch(params, batch)
        proximity = jnp.mean(jnp.sum((cloud.points - batch.points) ** 2, axis=1)) / (
            2.0 * self.step_size.astype(cloud.points.dtype)
        )
        energy = self.functional(key, cloud)
        return energy + proximity, (energy, proximity)

    def _push_batch(self, params: Params, batch: Pool) -> Cloud:
        """The image of the batch. Under path gradients its log-density has the derivatives of that of a fixed measure, the current one."""
        if not needs_density(self.functional):
            return Cloud(self.chain.transport(params, batch.points))
        if not self.path_gradient:
            points, log_det = self.chain.forward(params, batch.points)
            return Cloud(points, None, batch.log_density - log_det)
        frozen = self._push_pool(lax.stop_gradient(params), batch)
        points = self.chain.transport(params, batch.points)
        along = jnp.sum(
            lax.stop_gradient(jnp.asarray(frozen.score)) * (points - lax.stop_gradient(points)),
            axis=1,
        )
        return Cloud(points, None, lax.stop_gradient(frozen.log_density) + along)

    def _push_pool(self, params: Params, pool: Pool) -> Pool:
        if pool.score is None:
            points, log_det = self.chain.forward(params, pool.points)
            return Pool(points, pool.log_density - log_det, None)
        points, log_det, score = self.chain.forward_with_score(params, pool.points, pool.score)
        return Pool(points, pool.log_density - log_det, score)

    def _batch(self, pool: Pool, order: Int[Array, " n"], index: int | Int[Array, ""]) -> Pool:
        """The points of update number ``index``: all of the pool are met once before any is met again."""
        rows = order[(index * self.num_samples + jnp.arange(self.num_samples)) % self.num_points]
        return jax.tree.map(lambda leaf: leaf[rows], pool)

    def _solve_inner(
        self, key: Key, start: Params, pool: Pool, order: Int[Array, " n"]
    ) -> tuple[Params, "_Report"]:
        """Params after all updates, and a report on them, from one evaluation more in the same loop: half the program to compile."""
        optimizer = optax.with_extra_args_support(self.optimizer)
        frame = start["frame"]

        def update(carry, index):
            network, optimizer_state = carry
            update_key, batch = jax.random.fold_in(key, index), self._batch(pool, order, index)
            (objective, parts), gradient = self.objective_and_gradient(
                update_key, {"frame": frame, "network": network}, batch
            )
            anchor_energy = self.functional(
                update_key, Cloud(batch.points, None, batch.log_density)
            )

            def value_fn(network: Any) -> Array:
                return self._objective(update_key, network, frame, batch)[0]

            updates, optimizer_state = optimizer.update(
                gradient,
                optimizer_state,
                network,
                value=objective,
                grad=gradient,
                value_fn=value_fn,
            )
            last = index == self.num_inner_steps
            updated = jax.tree.map(
                lambda old, new: jnp.where(last, old, new),
                network,
                optax.apply_updates(network, updates),
            )
            return (updated, optimizer_state), _Report(
                objective, *parts, anchor_energy, optax.tree.norm(gradient)
            )

        carry = (start["network"], optimizer.init(start["network"]))
        (network, _), reports = lax.scan(update, carry, jnp.arange(self.num_inner_steps + 1))
        return {"frame": frame, "network": network}, jax.tree.map(lambda leaf: leaf[-1], reports)


class _Report(NamedTuple):
    """Estimates on one batch."""

    objective: Scalar
    energy: Scalar
    proximity: Scalar
    anchor_energy: Scalar
    gradient_norm: Scalar


class _Frame(NamedTuple):
    """Coordinates (x - center) / unit along ``axes``, the columns of an orthogonal matrix: a gradient in them is one in x."""

    center: Float[Array, " d"]
    axes: Float[Array, "d d"]
    unit: Scalar

    def inward(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return (x - self.center[None, :]) @ self.axes / self.unit

    def outward(self, u: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return self.center[None, :] + self.unit * (u @ self.axes.T)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Chain:
    """mu_0 = N(mean, scale^2 I) and the maps of one step: params are a frame and, in its coordinates, a network."""

    maps: Any
    mean: Leaf
    scale: Leaf
    max_steps: int = static_field()

    def start(self, z: Float[Array, "n d"]) -> tuple[Array, Array]:
        """Points of mu_0 and their log-density."""
        points = self.mean[None, :] + self.scale[None, :] * z
        return points, standard_normal_log_prob(z) - jnp.sum(jnp.log(self.scale))

    def start_log_prob(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return standard_normal_log_prob((x - self.mean[None, :]) / self.scale[None, :]) - jnp.sum(
            jnp.log(self.scale)
        )

    def identity_around(self, key: Key, points: Float[Array, "n d"]) -> Params:
        """The identity, in the frame of the points."""
        points = lax.stop_gradient(points)
        center = jnp.mean(points, axis=0)
        centred = points - center[None, :]
        variances, axes = jnp.linalg.eigh(centred.T @ centred / points.shape[0])
        deviations = jnp.sqrt(jnp.maximum(variances, jnp.finfo(points.dtype).eps * variances[-1]))
        unit = jnp.exp(jnp.mean(jnp.log(deviations)))
        return {
            "frame": _Frame(center, axes, unit),
            "network": self.maps.init(key, deviations / unit),
        }

    def transport(self, params: Params, x: Array) -> Array:
        frame = params["frame"]
        return frame.outward(self.maps.transport(params["network"], frame.inward(x)))

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        frame = params["frame"]
        u, log_det = self.maps.forward(params["network"], frame.inward(x))
        return frame.outward(u), log_det

    def forward_with_score(
        self, params: Params, x: Array, score: Array
    ) -> tuple[Array, Array, Array]:
        frame = params["frame"]
        u, log_det, score = self.maps.forward_with_score(
            params["network"], frame.inward(x), frame.unit * (score @ frame.axes)
        )
        return frame.outward(u), log_det, score @ frame.axes.T / frame.unit

    def inverse(self, params: Params, y: Array) -> tuple[Array, Array]:
        frame = params["frame"]
        u, log_det = self.maps.inverse(params["network"], frame.inward(y))
        return frame.outward(u), log_det


def _init(chain: _Chain, key: Key) -> Params:
    """No map yet. The slots hold the identity, with networks that have no gradient: never a start."""
    dim = chain.maps.dim
    network = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(chain.maps.init, key)
    )
    empty = {
        "frame": _Frame(
            jnp.zeros_like(chain.mean),
            jnp.eye(dim, dtype=chain.mean.dtype),
            jnp.ones_like(chain.mean[0]),
        ),
        "network": network,
    }
    slots = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (chain.max_steps, *leaf.shape)), empty)
    return {"maps": slots, "num_maps": jnp.zeros((), jnp.int32)}


def _latent(chain: _Chain, key: Key, num: int) -> Float[Array, "n d"]:
    return jax.random.normal(key, (num, chain.maps.dim), chain.mean.dtype)


def _push(chain: _Chain, params: Params, z: Float[Array, "n d"]) -> Cloud:
    def move(map_params, carry):
        points, log_det = chain.forward(map_params, carry[0])
        return points, carry[1] - log_det

    points, log_density = _through_maps(move, params, chain.start(z))
    return Cloud(points, None, log_density)


def _log_prob(chain: _Chain, params: Params, points: Float[Array, "n d"]) -> Float[Array, " n"]:
    def move_back(map_params, carry):
        points, log_det = chain.inverse(map_params, carry[0])
        return points, carry[1] + log_det

    points, log_det = _through_maps(
        move_back, params, (points, jnp.zeros_like(points[:, 0])), reverse=True
    )
    return chain.start_log_prob(points) + log_det


def _through_maps(
    move: Any, params: Params, carry: tuple[Array, Any], reverse: bool = False
) -> tuple[Array, Any]:
    """The carry after the maps there are, in turn; slots without one are passed over, at no cost outside ``vmap``."""

    def pass_slot(carry, slot):
        index, map_params = slot
        return lax.cond(
            index < params["num_maps"], move, lambda _, carry: carry, map_params, carry
        ), None

    slots = jnp.arange(jax.tree.leaves(params["maps"])[0].shape[0])
    return lax.scan(pass_slot, carry, (slots, params["maps"]), reverse=reverse)[0]


def _check_shapes(scheme: ICNNJKO) -> None:
    """Traces the objective without computing it, so that mistakes in user functions surface here and not inside a compiled scan."""

    def trace(key):
        pool = scheme.init(key).pool
        start = scheme.chain.identity_around(key, pool.points)
        return scheme._objective(key, start["network"], start["frame"], pool)[0]

    objective = jax.eval_shape(trace, jax.eval_shape(lambda: jax.random.key(0)))
    if objective.shape != ():
        raise ValueError(
            f"functional must return a scalar; the objective has shape {objective.shape}. Average over the points of the cloud."
        )
