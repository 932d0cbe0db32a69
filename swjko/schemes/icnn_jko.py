"""The JKO scheme in Wasserstein space by input convex networks.

    mu_{k+1} = argmin_mu W_2^2(mu, mu_k) / (2 step_size) + F(mu)

By Brenier's theorem the optimal map from mu_k is the gradient of a convex psi, and W_2^2 is what
it moves. A step therefore minimises, over input convex networks psi (``swjko.networks.convex``),

    E_{x ~ mu_k} |grad psi(x) - x|^2 / (2 step_size) + F((grad psi)_# mu_k).

Four choices are ours:

- Kept points: the state holds a pool of points of mu_k, which each step pushes once through its
  own map. A step then costs the same however many came before, and no gradient passes an earlier
  map. The pool carries log rho_k and the score grad log rho_k. With y = T(x) and H = DT(x),
  log rho_{k+1}(y) = log rho_k(x) - log det H and
  grad log rho_{k+1}(y) = H^{-1} (grad log rho_k(x) - grad log det H).
- Path gradients: log rho is differentiated through the points alone, along the score of the
  current map (Roeder, Wu, Duvenaud 2017, arXiv 1703.09194). At the exact step
  (T(x) - x) / step_size + grad V + grad log rho_{k+1} vanishes at each point, so the gradient has
  no noise there, and a finite pool no bias.
- Frames: each map works along the principal axes of its pool, around its mean
  (``swjko.schemes.icnn_family``). psi starts at |x|^2 / 2, the identity.
- Quadratic part: psi has a quadratic and linear part with a learning rate of its own
  (``swjko.networks.convex.ConvexPotential``). Its maps alone make all steps between Gaussians.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from swjko.families.base import Family
from swjko.functionals.base import needs_density, needs_log_prob
from swjko.schemes import inner_solve
from swjko.schemes.base import (
    Info,
    Result,
    State,
    accept,
    as_functional,
    require_scalar_objective,
    start_state,
    step_result,
)
from swjko.schemes.estimators import reads_entropy_alone
from swjko.schemes.icnn_family import Frame, MapChain
from swjko.schemes.optimizers import WithOptimizer, as_optimizer, require_updates
from swjko.types import Cloud, Functional, Key, Leaf, Params, Scalar, static_field, validation


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
    """Makes a scheme whose ``step`` is one Wasserstein JKO step by an input convex network.

    ``scheme.family`` holds the images of mu_0 under up to max_steps maps, so ``state.params``
    holds the whole flow, and ``scheme.after(params, num)`` the measure num steps from the start.
    Sampling costs one map for each step taken; ``log_prob`` inverts them by Newton's method.
    ``info`` holds estimates on num_samples points of the pool; ``info.proximity`` is
    E |grad psi(x) - x|^2 / (2 step_size). ``state.extra`` is a ``Pool``.

    Args:
      dim: Dimension of the points, 1 included.
      functional: F.
      optimizer: Optax optimizer. It starts afresh at each step, so a schedule runs over
        ``num_inner_steps``. Adam from 5e-3 suits targets near Gaussians, from 1e-2 those of
        separate modes.
      step_size: tau, in units of Wasserstein time. An SW flow is about d times as fast.
      num_inner_steps: Optimizer updates in one step.
      num_samples: Points for each update, drawn from the pool in epochs.
      num_points: Size of the pool, at least num_samples.
      max_steps: Maps that the state has room for. A step beyond them is not taken, and its result
        is STEP_LIMIT.
      width: Hidden units of the networks.
      num_layers: Hidden layers.
      rank: Convex quadratics that enter each hidden layer, as for ``swjko.flows.icnn``.
      strong_convexity: Smallest slope of a map in its frame, above 0 and below 1.
      log_det: "exact" or "stochastic" log-determinants, as for ``swjko.flows.icnn``. The family of
        an "exact" scheme of the same sizes takes the same params: measure with it.
      num_probes: Random signs for each point of stochastic log-determinants.
      seed: Seed of these signs.
      path_gradient: Whether to take path gradients where the functional is entropy-like and
        log-determinants are exact.
      init_mean: Mean of mu_0, a number or one for each coordinate.
      init_scale: Standard deviation of mu_0, a number or one for each coordinate.

    Example::

        energy = kl_divergence(lambda x: -jnp.sum(x**2) / 2)
        optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 150))
        scheme = icnn_jko(2, energy, optimizer, step_size=0.1, num_inner_steps=150, num_samples=256)
        state, infos = run(key, scheme, scheme.init(init_key), 10, record=swjko.infos)

    References:
      Mokrov, Korotin, Li, Genevay, Solomon, Burnaev, "Large-scale Wasserstein gradient flows"
      (2021), arXiv 2106.00736; Alvarez-Melis, Schiff, Mroueh (2021), arXiv 2106.00774; Bunne,
      Meng-Papaxanthos, Krause, Cuturi (2021), arXiv 2106.06345.
    """
    from swjko.networks.convex import ConvexMaps

    functional = as_functional(functional)
    if needs_log_prob(functional):
        raise ValueError(
            "functional must not read the density at points of its own, such as forward_kl: each "
            "value would invert all maps. Use swjko.sw_jko."
        )
    optimizer = as_optimizer(optimizer)
    num_samples = validation.as_count(num_samples, "num_samples")
    if (num_points := validation.as_count(num_points, "num_points")) < num_samples:
        raise ValueError(
            f"num_points must be at least num_samples, the {num_samples} points of one update; "
            f"got {num_points}."
        )
    num_probes = validation.as_count(num_probes, "num_probes")
    exact = validation.as_choice(log_det, "log_det", ("exact", "stochastic")) == "exact"
    maps = ConvexMaps(
        validation.as_count(dim, "dim"),
        validation.as_count(width, "width"),
        validation.as_count(num_layers, "num_layers"),
        validation.as_count(rank, "rank"),
        validation.as_fraction(strong_convexity, "strong_convexity", "that of |x|^2 / 2 being 1"),
        None if exact else num_probes,
        validation.as_count(seed, "seed", minimum=0),
    )
    start = validation.as_start(maps.dim, init_mean, init_scale)
    scheme = ICNNJKO(
        MapChain(maps, *start, validation.as_count(max_steps, "max_steps")),
        functional,
        validation.as_positive(step_size, "step_size"),
        optimizer,
        validation.as_count(num_inner_steps, "num_inner_steps"),
        num_samples,
        num_points,
        bool(path_gradient) and exact and reads_entropy_alone(functional),
    )
    require_scalar_objective(lambda key: _objective_at_start(key, scheme))
    require_updates(optimizer, jax.eval_shape(maps.init, jax.eval_shape(lambda: jax.random.key(0))))
    return scheme


def _objective_at_start(key: Key, scheme: "ICNNJKO") -> Scalar:
    pool = scheme.init(key).extra
    params = scheme.chain.identity_around(key, pool.points)
    return scheme.objective(key, params["network"], params["frame"], pool)[0]


class Pool(NamedTuple):
    """Points of a measure, with its log-density and score at them.

    Attributes:
      points: Points [n d].
      log_density: Log-density [n] at the points.
      score: grad log rho [n d] at the points; None if no gradient needs it.
    """

    points: Float[Array, "n d"]
    log_density: Float[Array, " n"]
    score: Float[Array, "n d"] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ICNNJKO(WithOptimizer):
    """Made by ``icnn_jko``.

    functional and step_size are leaves, and so are mean and scale of mu_0 in chain.
    """

    chain: MapChain
    functional: Functional
    step_size: Leaf
    optimizer: optax.GradientTransformation = static_field()
    num_inner_steps: int = static_field()
    num_samples: int = static_field()
    num_points: int = static_field()
    path_gradient: bool = static_field()

    @property
    def family(self) -> Family:
        methods = (MapChain.init, MapChain.latent, MapChain.push, MapChain.log_prob)
        bound = (Partial(method, self.chain) for method in methods)
        return Family(*bound, self.chain.dim, has_density=True)

    def after(self, params: Params, num_steps: int | Int[Array, ""]) -> Params:
        """Returns params of the measure ``num_steps`` steps from the start; it may be traced."""
        num_maps = jnp.minimum(jnp.asarray(num_steps, jnp.int32), params["num_maps"])
        return params | {"num_maps": num_maps}

    def init(self, key: Key) -> State:
        """Returns the state at mu_0, time 0, with a fresh pool."""
        z = self.chain.latent(key, self.num_points)
        points, log_density = self.chain.start(z)
        score = -z / self.chain.scale[None, :] if self.path_gradient else None
        pool = Pool(points, log_density, score)
        return start_state(self.chain.init(key), self.step_size, pool)

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        """Takes one step from ``state``. If it fails or is one too many, the state stays."""
        map_key, order_key, inner_key = jax.random.split(key, 3)
        pool = state.extra
        order = jax.random.permutation(order_key, self.num_points)
        start = self.chain.identity_around(map_key, pool.points)
        params, report = self._solve_inner(inner_key, start, pool, order)
        energy, proximity, anchor_energy = report.aux
        pushed = self._push_pool(params, pool)
        result = step_result(state, (params, pushed), report.value, anchor_energy)
        full = (result == Result.OK) & (state.step >= self.chain.max_steps)
        result = jnp.where(full, Result.STEP_LIMIT, result).astype(state.result.dtype)
        maps = self.chain.add(state.params, state.step, params, result == Result.OK)
        time = state.time + self.step_size
        state = accept(state, State(maps, time, state.step + 1, result, pushed))
        norm = optax.tree.norm(report.gradient)
        return state, Info(state.time, energy, proximity, report.value, norm, result)

    def objective(
        self, key: Key, network: Params, frame: Frame, batch: Pool
    ) -> tuple[Scalar, tuple[Scalar, Scalar]]:
        """Estimates the objective of a step from points of the old measure.

        Returns:
          The objective, and (energy, proximity).
        """
        cloud = self._push_batch({"frame": frame, "network": network}, batch)
        moved = jnp.mean(jnp.sum((cloud.points - batch.points) ** 2, axis=1))
        proximity = moved / (2.0 * self.step_size.astype(cloud.points.dtype))
        energy = self.functional(jax.random.clone(key), cloud)
        return energy + proximity, (energy, proximity)

    def _push_batch(self, params: Params, batch: Pool) -> Cloud:
        """Returns the image of the batch.

        Under path gradients its log-density has the derivatives of that of a fixed measure, the
        current one.
        """
        if not needs_density(self.functional):
            return Cloud(self.chain.transport(params, batch.points))
        if not self.path_gradient:
            points, log_det = self.chain.forward(params, batch.points)
            return Cloud(points, None, batch.log_density - log_det)
        fixed = self._push_pool(lax.stop_gradient(params), batch)
        points = self.chain.transport(params, batch.points)
        score = lax.stop_gradient(jnp.asarray(fixed.score))
        along = jnp.sum(score * (points - lax.stop_gradient(points)), axis=1)
        return Cloud(points, None, lax.stop_gradient(fixed.log_density) + along)

    def _push_pool(self, params: Params, pool: Pool) -> Pool:
        if pool.score is None:
            points, log_det = self.chain.forward(params, pool.points)
            return Pool(points, pool.log_density - log_det, None)
        points, log_det, score = self.chain.forward_with_score(params, pool.points, pool.score)
        return Pool(points, pool.log_density - log_det, score)

    def _solve_inner(
        self, key: Key, start: Params, pool: Pool, order: Int[Array, " n"]
    ) -> tuple[Params, inner_solve.Evaluation]:
        """Returns the params of a map, and a report with aux (energy, proximity, F(mu_k))."""
        frame = start["frame"]

        def objective(network: Params, index: Int[Array, ""]):
            # All points of the pool are visited once before any is visited again.
            first = index * self.num_samples
            rows = order[(first + jnp.arange(self.num_samples)) % self.num_points]
            batch = jax.tree.map(lambda leaf: leaf[rows], pool)
            update_key = jax.random.fold_in(key, index)
            value, parts = self.objective(update_key, network, frame, batch)
            anchor = self.functional(update_key, Cloud(batch.points, None, batch.log_density))
            return value, (*parts, anchor)

        network, report = inner_solve.minimize_and_report(
            objective, self.optimizer, start["network"], jnp.arange(self.num_inner_steps + 1)
        )
        return {"frame": frame, "network": network}, report
