"""A convolutional autoencoder of images, and flows in its space of codes seen through its decoder.

    rows in [0, 1] [n h*w*c] -> encode -> codes [n latent_dim] -> decode -> rows in [0, 1]

Codes are centred and over one common scale: those of the rows it was fitted to have mean 0 and mean variance 1. They are not whitened. In
a cloud without a preferred direction random projections show little but its covariance, being sums of many coordinates and nearly normal;
unequal axes keep what is not Gaussian in view of sliced distances. Codes of few axes are easier still, and gradient descent prefers them
where the encoder ends in several linear maps in a row (``num_linear``), which together are no more than one. Fit the autoencoder, take
F = ``sw_to_target(model.encode(params, rows), ...)``, and look at the flow through ``decoded``.
"""

import dataclasses
import itertools
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from swjko import validation
from swjko.families.base import Family, gaussian, require_family
from swjko.running.solve import solve
from swjko.schemes.base import Info, Result
from swjko.types import Cloud, Key, Leaf, Params, Scalar, static_field

# At once, where all are.
_ENCODED_ROWS = 256


def autoencoder(
    shape: tuple[int, int, int], *, latent_dim: int = 48, width: int = 16, num_linear: int = 0
) -> "Autoencoder":
    """Two convolutions of stride 2 and a linear map to the code, and their mirror image: two convolutions that each double the sides.

    The decoder's doubling takes channels to 2 x 2 blocks of pixels (Shi et al. 2016, arXiv 1609.05158): a quarter of the work of a
    convolution of the enlarged image, and no checkerboard from overlaps. Sizes that are no multiples of 4 are cropped from the next one.

    Args:
      shape: (height, width, channels) of the images, each at least 1.
      latent_dim: dimension of the codes.
      width: channels of the first convolution; the second has twice as many.
      num_linear: square linear maps without bias at the encoder's end. The more, the fewer axes the codes have variance along, so that a
        flow of codes comes nearer to them, and the more detail is lost: an implicit penalty on the rank of their covariance (Jing, Zbontar,
        LeCun 2020, arXiv 2010.00679). More updates win detail back.

    Raises ValueError or TypeError on sizes below 1 and on a negative num_linear. Source of the setting: Bonet et al. (2022), arXiv
    2110.10972, a bottleneck of 48.

    Example::

        model = autoencoder((28, 28, 1))
        fit = fit_autoencoder(key, model, rows, optax.adam(1e-3), num_steps=2000, batch_size=128)
        codes = model.encode(fit.params, rows)
    """
    if not isinstance(shape, tuple) or len(shape) != 3:
        raise ValueError(
            f"shape must be (height, width, channels), such as (28, 28, 1); received {shape!r}."
        )
    height, length, channels = (
        validation.as_count(size, f"shape[{axis}]") for axis, size in enumerate(shape)
    )
    shape = (height, length, channels)
    latent_dim, width = (
        validation.as_count(latent_dim, "latent_dim"),
        validation.as_count(width, "width"),
    )
    num_linear = validation.as_count(num_linear, "num_linear", minimum=0)

    def make(key: Key) -> tuple[nnx.Module, nnx.Module]:
        rngs = nnx.Rngs(key)
        return _Encoder(shape, latent_dim, width, num_linear, rngs), _Decoder(
            shape, latent_dim, width, rngs
        )

    encoder, decoder = (
        nnx.split(part)[0] for part in nnx.eval_shape(lambda: make(jax.random.key(0)))
    )

    def init(key: Key) -> Params:
        networks = (nnx.to_pure_dict(nnx.split(part)[1]) for part in make(key))
        return dict(zip(("encoder", "decoder"), networks, strict=True)) | {
            "center": jnp.zeros(latent_dim),
            "scale": jnp.ones(()),
        }

    return Autoencoder(
        Partial(init), Partial(_apply, encoder), Partial(_apply, decoder), shape, latent_dim
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Made by ``autoencoder``. params: {"encoder", "decoder": of the networks, "center": [k], "scale": []}, the last two those of what
    the encoder's network returns, 0 and 1 before the fit."""

    init: Partial
    encoder: Partial
    decoder: Partial
    shape: tuple[int, int, int] = static_field()
    latent_dim: int = static_field()

    @property
    def dim(self) -> int:
        """Length of a row, height * width * channels."""
        return math.prod(self.shape)

    def encode(self, params: Params, rows: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Codes of rows in [0, 1]. Raises ValueError on rows of another length than height * width * channels."""
        rows = _as_rows(self, rows)
        codes = self.encoder(params["encoder"], rows.reshape(-1, *self.shape))
        return (codes - params["center"][None, :]) / params["scale"]

    def decode(self, params: Params, codes: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Rows in [0, 1]. Raises ValueError on codes of another length than latent_dim."""
        return jax.nn.sigmoid(self.logits(params, codes))

    def logits(self, params: Params, codes: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """log p / (1 - p) of the rows that ``decode`` gives."""
        codes = validation.as_points(codes, "codes")
        if codes.shape[1] != self.latent_dim:
            raise ValueError(
                f"codes must have shape [n {self.latent_dim}], as encode gives them; received {codes.shape}."
            )
        images = self.decoder(
            params["decoder"], params["center"][None, :] + params["scale"] * codes
        )
        return images.reshape(-1, self.dim)


class AutoencoderFit(NamedTuple):
    """What ``fit_autoencoder`` returns.

    Attributes:
      params: of the model, codes centred and scaled.
      losses: [num_steps], the binary cross-entropy of each update's minibatch, in nats per pixel.
      seconds: wall seconds of the updates, compilation left out, and those of before where it was resumed.
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
    """Minimises the binary cross-entropy of ``decode(encode(rows))``, mean over pixels, by ``num_steps`` updates; then scales codes.

    Pixels are taken as probabilities, so that the least is the entropy of the pixels themselves, above 0 for grey ones.

    Args:
      rows: [n h*w*c] in [0, 1]; an argument of the compiled program, never a constant in it.
      optimizer: from optax; a schedule runs over ``num_steps``.
      batch_size: rows drawn without replacement for each update, at most n.
      progress, checkpoint_dir: as of ``swjko.solve``, which runs the updates: a fit that was killed goes on bit for bit.

    Raises ValueError on rows of another length than height * width * channels, on pixels outside [0, 1] and on fewer rows than
    batch_size; ``swjko.FlowError`` where a loss becomes NaN or infinite; ``swjko.CheckpointError`` as ``solve`` does.
    """
    if not isinstance(model, Autoencoder):
        raise TypeError(
            f"model must be made by swjko.networks.autoencoder.autoencoder; received {type(model).__name__}."
        )
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax GradientTransformation, such as optax.adam(1e-3); received {type(optimizer).__name__}."
        )
    rows = _as_rows(model, rows)
    if validation.is_concrete(rows) and not 0.0 <= float(rows.min()) <= float(rows.max()) <= 1.0:
        raise ValueError(
            f"rows must lie in [0, 1]; received {float(rows.min()):g} to {float(rows.max()):g}. Divide grey levels by 255."
        )
    if (batch_size := validation.as_count(batch_size, "batch_size")) > rows.shape[0]:
        raise ValueError(
            f"batch_size must not exceed the {rows.shape[0]} rows; received {batch_size}."
        )
    solution = solve(
        key,
        _Fit(model, rows, optimizer, batch_size),
        num_steps,
        progress=progress,
        checkpoint_dir=checkpoint_dir,
    )
    losses = np.asarray(solution.history.energy)
    return AutoencoderFit(
        _standardised(model, solution.state.params, rows), losses, solution.timing.run_seconds
    )


def decoded(family: Family, model: Autoencoder, params: Params) -> Family:
    """The family of a flow of codes as one of rows: what it pushes is decoded. Its params are those of ``family``; it has no density.

    Args: family: of dimension latent_dim; params: of the autoencoder, leaves. Raises ValueError where the dimensions differ.
    Example: ``sample(decoded(scheme.family, model, fit.params), solution.state.params, key, 100).points`` are images.
    """
    require_family(family)
    if family.dim != model.latent_dim:
        raise ValueError(
            f"family must have dimension {model.latent_dim}, that of the codes; received {family.dim}."
        )
    push, log_prob = (Partial(_push_decoded, model, params, family.push), Partial(_no_log_prob))
    return Family(family.init, family.latent, push, log_prob, model.dim, False, family.is_finite)


class _FitState(NamedTuple):
    params: Params
    time: Scalar
    step: Array
    result: Array
    optimizer_state: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Fit:
    """The fit as a scheme, so that ``solve`` runs it: a step is an update, and energy is its loss."""

    model: Autoencoder
    rows: Leaf
    optimizer: optax.GradientTransformation = static_field()
    batch_size: int = static_field()

    @property
    def family(self) -> Family:
        return decoded(
            gaussian(self.model.latent_dim), self.model, self.model.init(jax.random.key(0))
        )

    def init(self, key: Key) -> _FitState:
        params = self.model.init(key)
        zero = jnp.zeros((), jnp.int32)
        return _FitState(
            params,
            jnp.zeros((), self.rows.dtype),
            zero,
            zero,
            self.optimizer.init(_networks(params)),
        )

    def step(self, key: Key, state: _FitState) -> tuple[_FitState, Info]:
        batch = jax.random.choice(key, self.rows, (self.batch_size,), replace=False)

        def loss_of(networks: Params) -> Scalar:
            params = state.params | networks
            logits = self.model.logits(params, self.model.encode(params, batch))
            return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, batch))

        networks = _networks(state.params)
        loss, gradient = jax.value_and_grad(loss_of)(networks)
        updates, optimizer_state = self.optimizer.update(gradient, state.optimizer_state, networks)
        norm = optax.tree.norm(gradient)
        code = jnp.where(jnp.isfinite(loss) & jnp.isfinite(norm), Result.OK, Result.NON_FINITE)
        result = jnp.where(state.result == Result.OK, code, state.result).astype(state.result.dtype)
        moved = _FitState(
            state.params | optax.apply_updates(networks, updates),
            state.time + 1,
            state.step + 1,
            result,
            optimizer_state,
        )
        kept = jax.tree.map(
            lambda new, old: jnp.where(result == Result.OK, new, old),
            moved,
            state._replace(result=result),
        )
        return kept, Info(kept.time, loss, jnp.zeros_like(loss), loss, norm, result)


class _Encoder(nnx.Module):
    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int,
        width: int,
        num_linear: int,
        rngs: nnx.Rngs,
    ):
        sizes = (shape[2], width, 2 * width)
        self.convolutions = nnx.List(
            [
                nnx.Linear(9 * before, after, rngs=rngs)
                for before, after in itertools.pairwise(sizes)
            ]
        )
        height, length = _quartered(shape)
        self.last = nnx.Linear(height * length * 2 * width, latent_dim, rngs=rngs)
        self.linear = nnx.List(
            [
                nnx.Linear(latent_dim, latent_dim, use_bias=False, rngs=rngs)
                for _ in range(num_linear)
            ]
        )

    def __call__(self, images: Any) -> Any:
        x = images
        for convolution in self.convolutions:
            x = nnx.silu(convolution(_patches(x, stride=2)))
        codes = self.last(x.reshape(x.shape[0], -1))
        for linear in self.linear:
            codes = linear(codes)
        return codes


class _Decoder(nnx.Module):
    def __init__(self, shape: tuple[int, int, int], latent_dim: int, width: int, rngs: nnx.Rngs):
        self.shape, self.width = shape, width
        height, length = _quartered(shape)
        self.first = nnx.Linear(latent_dim, height * length * 2 * width, rngs=rngs)
        self.middle = nnx.Linear(9 * 2 * width, 4 * width, rngs=rngs)
        self.last = nnx.Linear(9 * width, 4 * shape[2], rngs=rngs)

    def __call__(self, codes: Any) -> Any:
        x = nnx.silu(self.first(codes)).reshape(-1, *_quartered(self.shape), 2 * self.width)
        x = _doubled(nnx.silu(self.middle(_patches(x))))
        return _doubled(self.last(_patches(x)))[:, : self.shape[0], : self.shape[1]]


def _quartered(shape: tuple[int, int, int]) -> tuple[int, int]:
    return math.ceil(shape[0] / 4), math.ceil(shape[1] / 4)


def _patches(x: Float[Array, "n h w c"], stride: int = 1) -> Float[Array, "n h2 w2 c9"]:
    """The 3 x 3 neighbourhoods of each pixel, or of each ``stride``-th one, zeros outside: a linear map of them is a convolution.

    On a CPU, XLA's own convolutions take several times as long inside a loop as outside, and all fits are loops.
    """
    _, height, length, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [
        padded[:, i : i + height : stride, j : j + length : stride]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(shifted, axis=-1)


def _doubled(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c4"]:
    """Four channels of a pixel as a block of 2 x 2 pixels."""
    n, height, length, channels = x.shape
    x = x.reshape(n, height, length, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * height, 2 * length, channels // 4)


def _apply(graph, params, batch):
    return nnx.merge(graph, params)(batch)


def _networks(params: Params) -> Params:
    return {name: params[name] for name in ("encoder", "decoder")}


def _standardised(model: Autoencoder, params: Params, rows: Array) -> Params:
    """The same autoencoder with center and scale those of the rows' codes."""
    raw = params | {
        "center": jnp.zeros_like(params["center"]),
        "scale": jnp.ones_like(params["scale"]),
    }
    codes = lax.map(
        lambda row: model.encode(raw, row[None])[0],
        rows,
        batch_size=min(_ENCODED_ROWS, rows.shape[0]),
    )
    codes = np.asarray(codes, np.float64)
    # One row alone, or codes that are all equal, have no scale of their own.
    scale = float(np.sqrt(codes.var(axis=0).mean())) or 1.0
    dtype = params["center"].dtype
    return raw | {
        "center": jnp.asarray(codes.mean(axis=0), dtype),
        "scale": jnp.asarray(scale, dtype),
    }


def _push_decoded(model, params, push, family_params, z):
    return Cloud(model.decode(params, push(family_params, z).points))


def _no_log_prob(params, points):
    del params, points


def _as_rows(model: Autoencoder, rows: Any) -> Array:
    rows = validation.as_points(rows, "rows")
    if rows.shape[1] != model.dim:
        raise ValueError(
            f"rows must have shape [n {model.dim}], images of shape {model.shape} each in a row; received {rows.shape}."
        )
    return rows
