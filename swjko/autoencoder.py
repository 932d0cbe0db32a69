"""Fit an autoencoder of images, and generate images by a flow of its codes.

Fit the autoencoder, run a flow to ``sw_to_target(model.encode(params, rows), ...)``, and decode
what it generates with the family ``decoded(...)``.
"""

import dataclasses
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from swjko.families.base import Family
from swjko.families.decoded import decoded
from swjko.families.gaussians import gaussian
from swjko.networks.autoencoder import Autoencoder, autoencoder
from swjko.running.solve import solve
from swjko.schemes.base import Info, Result, State, accept
from swjko.types import Key, Leaf, Params, static_field, validation

__all__ = ["Autoencoder", "AutoencoderFit", "autoencoder", "decoded", "fit_autoencoder"]

# Rows that are encoded at a time, after the fit.
_ENCODED_ROWS = 256


class AutoencoderFit(NamedTuple):
    """What ``fit_autoencoder`` returns.

    Attributes:
      params: Parameters of the model, with codes centred and scaled.
      losses: Binary cross-entropy [num_steps] of each update's batch, in nats per pixel.
      seconds: Wall seconds of the updates without compilation. A resumed fit includes the seconds
        before it was interrupted.
    """

    params: Params
    losses: Float[np.ndarray, " t"]
    seconds: float


def fit_autoencoder(
    key: Key,
    model: Autoencoder,
    rows: Float[Array, "n d"],
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    batch_size: int,
    progress: bool = True,
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> AutoencoderFit:
    """Minimises the binary cross-entropy of an autoencoder, then standardises its codes.

    Pixels are taken as probabilities. The least possible loss is the entropy of the pixels, which
    is above 0 for grey ones.

    Args:
      key: Random key.
      model: Model such as ``autoencoder((28, 28, 1))``.
      rows: Images [n h*w*c] in [0, 1].
      optimizer: Optimizer from optax; a schedule runs over ``num_steps``.
      num_steps: Number of updates.
      batch_size: Rows drawn without replacement for each update, at most n.
      progress: Whether to show a progress bar.
      checkpoint_dir: Run directory, as of ``swjko.solve``, which runs the updates. An interrupted
        fit resumes bit for bit.

    Raises:
      swjko.FlowError: If a loss becomes NaN or infinite.
      swjko.CheckpointError: As ``solve``.

    Example::

        model = autoencoder((28, 28, 1))
        fit = fit_autoencoder(key, model, rows, optax.adam(1e-3), num_steps=2000, batch_size=128)
        codes = model.encode(fit.params, rows)
    """
    if not isinstance(model, Autoencoder):
        raise TypeError(
            f"model must be made by swjko.autoencoder.autoencoder; got {type(model).__name__}."
        )
    validation.require_optimizer(optimizer)
    rows = model.as_rows(rows)
    if validation.is_concrete(rows) and not 0.0 <= float(rows.min()) <= float(rows.max()) <= 1.0:
        raise ValueError(
            f"rows must lie in [0, 1]; got {float(rows.min()):g} to {float(rows.max()):g}. "
            "Divide grey levels by 255."
        )
    if (batch_size := validation.as_count(batch_size, "batch_size")) > rows.shape[0]:
        raise ValueError(f"batch_size must not exceed the {rows.shape[0]} rows; got {batch_size}.")
    scheme = FitScheme(model, rows, optimizer, batch_size)
    solution = solve(key, scheme, num_steps, progress=progress, checkpoint_dir=checkpoint_dir)
    params = _standardise(model, solution.state.params, rows)
    return AutoencoderFit(params, np.asarray(solution.history.energy), solution.timing.run_seconds)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitScheme:
    """The fit as a scheme, so that ``solve`` runs it. A step is an update; energy is its loss.

    ``state.extra`` is the state of the optimizer.
    """

    model: Autoencoder
    rows: Leaf
    optimizer: optax.GradientTransformation = static_field()
    batch_size: int = static_field()

    @property
    def family(self) -> Family:
        params = self.model.init(jax.random.key(0))
        return decoded(gaussian(self.model.latent_dim), self.model, params)

    def init(self, key: Key) -> State:
        params = self.model.init(key)
        zero = jnp.zeros((), jnp.int32)
        time = jnp.zeros((), self.rows.dtype)
        return State(params, time, zero, zero, self.optimizer.init(_networks(params)))

    def step(self, key: Key, state: State) -> tuple[State, Info]:
        batch = jax.random.choice(key, self.rows, (self.batch_size,), replace=False)
        networks = _networks(state.params)
        loss, gradient = jax.value_and_grad(
            lambda networks: self.model.loss(state.params | networks, batch)
        )(networks)
        updates, optimizer_state = self.optimizer.update(gradient, state.extra, networks)
        norm = optax.tree.norm(gradient)
        code = jnp.where(jnp.isfinite(loss) & jnp.isfinite(norm), Result.OK, Result.NON_FINITE)
        result = jnp.where(state.result == Result.OK, code, state.result).astype(state.result.dtype)
        params = state.params | optax.apply_updates(networks, updates)
        moved = State(params, state.time + 1, state.step + 1, result, optimizer_state)
        state = accept(state, moved)
        return state, Info(state.time, loss, jnp.zeros_like(loss), loss, norm, result)


def _networks(params: Params) -> Params:
    return {name: params[name] for name in ("encoder", "decoder")}


def _standardise(model: Autoencoder, params: Params, rows: Array) -> Params:
    """Returns params of the same model whose codes of the rows have mean 0 and mean variance 1."""
    center, scale = params["center"], params["scale"]
    raw = params | {"center": jnp.zeros_like(center), "scale": jnp.ones_like(scale)}
    codes = lax.map(
        lambda row: model.encode(raw, row[None])[0],
        rows,
        batch_size=min(_ENCODED_ROWS, rows.shape[0]),
    )
    codes = np.asarray(codes, np.float64)
    # A single row, or equal codes, have scale 0.
    deviation = float(np.sqrt(codes.var(axis=0).mean())) or 1.0
    mean = jnp.asarray(codes.mean(axis=0), center.dtype)
    return raw | {"center": mean, "scale": jnp.asarray(deviation, center.dtype)}
