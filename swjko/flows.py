"""Families carried by neural networks: coupling, continuous and convex potential flows with a density, perceptrons and generators of
pictures without one, your own flax or distrax model.

Parameters are plain nested dictionaries of arrays. A model with ``forward_and_log_det(z)`` and ``inverse_and_log_det(x)`` has a density;
one with ``__call__(z)`` alone is a generator. Every family here starts at mu_0 = N(init_mean, init_scale^2 I) exactly, except where it
says so.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array

from swjko import validation
from swjko.families.base import Family
from swjko.families.pushforward import Mapped, pushforward
from swjko.networks import continuous, convex
from swjko.networks import convolutional as convolutions
from swjko.networks import coupling as couplings
from swjko.types import Key, Params

_SIDES = ("height", "width", "channels")


def coupling(
    dim: int,
    *,
    num_layers: int = 6,
    width: int = 64,
    mixing: str = "permutation",
    num_fixed: int = 0,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> Family:
    """A RealNVP flow: ``num_layers`` affine couplings, then an invertible affine layer b + L U x; density and inverse are exact.

    A coupling moves one half u of the coordinates given the other half v: u -> u exp(s(v)) + t(v), with |s| <= 2; s and t come from one
    perceptron of two hidden layers. Starts at the identity, that is at N(init_mean, init_scale^2 I). Source: Dinh, Sohl-Dickstein,
    Bengio (2017), arXiv 1605.08803; the triangular layer after Kingma and Dhariwal (2018), arXiv 1807.03039.

    Args:
      dim: dimension, at least 2 (one coordinate leaves nothing to condition on: take ``swjko.gaussian`` or ``mlp(1, 1)``).
      num_layers: couplings; even numbers treat all coordinates alike.
      width: hidden units of each conditioner.
      mixing: what lies between pairs of couplings. ``"permutation"`` interleaves the halves; ``"lu"`` puts an invertible affine layer
        b + L U x after each interleaving, the identity at the start, and needs at least three couplings: nearer in tens of dimensions
        where updates are few (``python -m benchmarks ablation --full`` measures it), not where they are many.
      num_fixed: so many of the last coordinates stay as they start, and the others move given them: a flow of the conditional laws, for
        coordinates whose law is known. KL(mu | p) is then that of their law, a constant, and the mean KL of the conditional laws.
        At least two coordinates must move.
      init_mean, init_scale: numbers, or one per coordinate.

    Raises ValueError or TypeError on numbers below their minimum, too many fixed coordinates, another mixing, and starts of another length
    or without a positive scale.
    """
    num_fixed = validation.as_count(num_fixed, "num_fixed", minimum=0)
    if num_fixed > 0 and validation.as_count(dim, "dim") - num_fixed < 2:
        raise ValueError(
            f"num_fixed must leave two coordinates of dim or more to be moved; received num_fixed={num_fixed}, dim={dim}."
        )
    lu_mixing = validation.as_choice(mixing, "mixing", ("permutation", "lu")) == "lu"
    if lu_mixing and validation.as_count(num_layers, "num_layers") < 3:
        raise ValueError(
            f"mixing='lu' needs num_layers >= 3, for between fewer couplings nothing is mixed; received {num_layers}."
        )
    options = {"lu_mixing": lu_mixing, "num_fixed": num_fixed}
    return _coupling_family(
        "coupling", couplings.Affine(), dim, num_layers, width, init_mean, init_scale, **options
    )


def spline(
    dim: int,
    *,
    num_layers: int = 4,
    width: int = 64,
    num_bins: int = 8,
    bound: float = 4.0,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> Family:
    """A neural spline flow: couplings by monotone rational-quadratic splines, then an invertible affine layer b + L U x.

    Each coordinate of one half goes through a spline whose knots are functions of the other half. In units of init_scale around
    init_mean, a spline bends [-bound, bound] and is the identity outside, so tails stay those of the Gaussian start under an affine map.
    More costly by the update than ``coupling`` and better at separated modes. Source: Durkan, Bekasov, Murray, Papamakarios (2019),
    arXiv 1906.04032; the spline itself is distrax's.

    Args:
      dim: dimension, at least 2.
      num_layers, width: as for ``coupling``.
      num_bins: bins of each spline, at least 2.
      bound: end of the interval, in starting standard deviations.
      init_mean, init_scale: numbers, or one per coordinate.

    Raises ModuleNotFoundError where distrax is not installed.
    """
    num_bins = validation.as_count(num_bins, "num_bins", minimum=2)
    if not (math.isfinite(bound) and bound > 0.0):
        raise ValueError(
            f"bound must be a positive number, the half length of the splines' interval; received {bound}."
        )
    import distrax  # noqa: F401  (here, so that a missing one is found before anything is traced)

    return _coupling_family(
        "spline",
        couplings.RationalQuadratic(num_bins, float(bound)),
        dim,
        num_layers,
        width,
        init_mean,
        init_scale,
    )


def _coupling_family(name, bijection, dim, num_layers, width, init_mean, init_scale, **options):
    if validation.as_count(dim, "dim") == 1:
        raise ValueError(
            f"flows.{name} needs dim >= 2: with one coordinate there is nothing to condition on. Take swjko.gaussian or flows.mlp(1, 1)."
        )
    num_layers, width = (
        validation.as_count(num_layers, "num_layers"),
        validation.as_count(width, "width"),
    )
    return _standardised(
        lambda rngs: couplings.CouplingFlow(dim, num_layers, width, bijection, rngs, **options),
        dim,
        init_mean,
        init_scale,
    )


def cnf(
    dim: int,
    *,
    width: int = 64,
    num_layers: int = 2,
    num_integration_steps: int = 8,
    divergence: str = "exact",
    num_probes: int = 1,
    seed: int = 0,
    solver: Any = None,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> Family:
    """A continuous normalising flow: dx/dt = A x + b + net(t, x) from z at t = 0 to x at t = 1, log rho(x) = log N(z) - int div v dt.

    Sources: Chen, Rubanova, Bettencourt, Duvenaud (2018), arXiv 1806.07366; Grathwohl et al. (2019), FFJORD, arXiv 1810.01367.

    Args:
      dim: dimension, 1 included.
      width, num_layers: hidden units and hidden layers of the velocity's perceptron.
      num_integration_steps: equal Runge-Kutta steps of fourth order, four velocities each. Densities and inverses hold to the error of
        the integral: a sixteenth for twice the steps.
      divergence: "exact", by d derivatives; or "hutchinson", by ``num_probes`` random signs for each row of a batch, fixed by ``seed``.
        ``log_density`` and ``log_prob`` then agree on the same batch in the same order, are unbiased over the seeds, and average the signs
        out over a batch of dim or more rows: right for entropies, which are means of them, and biased for other functions of them
        (``internal_energy``, ``symmetric_kl``). The "exact" family takes the same params: measure with it.
      solver: None, or a solver of diffrax such as ``diffrax.Tsit5()``: adaptive, to eps^0.7 of the dtype, the first step being
        1 / num_integration_steps. Without it the numbers are the same whatever is installed.
      init_mean, init_scale: numbers, or one per coordinate; the flow starts at N(init_mean, init_scale^2 I).

    Raises ModuleNotFoundError where a solver is given and diffrax is not installed.
    """
    dim, width, num_layers = _sizes(dim, width, num_layers)
    num_steps = validation.as_count(num_integration_steps, "num_integration_steps")
    probes = _probes(divergence, "divergence", "hutchinson", num_probes)
    seed = validation.as_count(seed, "seed", minimum=0)
    integrator = (
        continuous.RungeKutta(num_steps)
        if solver is None
        else continuous.Diffrax(_as_solver(solver), num_steps)
    )
    return _standardised(
        lambda rngs: continuous.ContinuousFlow(
            dim, width, num_layers, integrator, probes, seed, rngs
        ),
        dim,
        init_mean,
        init_scale,
    )


def icnn(
    dim: int,
    *,
    width: int = 64,
    num_layers: int = 2,
    rank: int = 4,
    strong_convexity: float = 1e-3,
    log_det: str = "exact",
    num_probes: int = 1,
    seed: int = 0,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> Family:
    """A convex potential flow: x = grad psi(z), psi an input convex network plus a quadratic; log rho(x) = log N(z) - log det D^2 psi(z).

    The map is the optimal one from N(0, I), and inverted by Newton's method: ``log_prob`` costs several times a push. Sources: Huang, Chen,
    Tsirigotis, Courville (2021), arXiv 2012.05942; Amos, Xu, Kolter (2017), arXiv 1609.07152.

    Args:
      dim: dimension, 1 included.
      width, num_layers: hidden units and hidden layers.
      rank: convex quadratics |<a, z>|^2 that enter each hidden layer.
      strong_convexity: smallest slope of the map, in units of init_scale, above 0 and below 1, the slope at the start.
      log_det: "exact", by the Hessian of each point, d derivatives; or "stochastic", for many dimensions: by Lanczos quadrature and
        conjugate gradients from ``num_probes`` random signs for each row of a batch, fixed by ``seed``, with what that means as in ``cnf``.
      init_mean, init_scale: numbers, or one per coordinate; the flow starts at N(init_mean, init_scale^2 I).

    Raises ValueError or TypeError on numbers below their minimum or out of range, another log_det, and starts that do not fit.
    """
    dim, width, num_layers = _sizes(dim, width, num_layers)
    rank = validation.as_count(rank, "rank")
    alpha = validation.as_fraction(
        strong_convexity,
        "strong_convexity",
        "the convexity of a potential that starts at |z|^2 / 2",
    )
    probes = _probes(log_det, "log_det", "stochastic", num_probes)
    seed = validation.as_count(seed, "seed", minimum=0)
    return _standardised(
        lambda rngs: convex.ConvexFlow(dim, width, num_layers, rank, alpha, probes, seed, rngs),
        dim,
        init_mean,
        init_scale,
    )


def _sizes(dim, width, num_layers):
    return tuple(
        validation.as_count(value, name)
        for value, name in ((dim, "dim"), (width, "width"), (num_layers, "num_layers"))
    )


def _probes(value, name, estimated, num_probes):
    num_probes = validation.as_count(num_probes, "num_probes")
    return (
        None if validation.as_choice(value, name, ("exact", estimated)) == "exact" else num_probes
    )


def _as_solver(solver):
    import diffrax

    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(
            f"solver must be None or a diffrax solver, such as diffrax.Tsit5(); received {solver!r}."
        )
    return solver


def mlp(
    latent_dim: int,
    dim: int,
    *,
    width: int = 64,
    num_layers: int = 3,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> Family:
    """The image of N(0, I_latent_dim) under a perceptron; no density.

    With latent_dim == dim the map is x = init_mean + init_scale (z + net(z)) with a zero last layer, so it starts at N(init_mean,
    init_scale^2 I). With other dimensions it starts at a random network; fit it first if the flow is to start elsewhere.

    Args:
      latent_dim, dim: dimensions of noise and points.
      width, num_layers: hidden units and hidden layers.
      init_mean, init_scale: numbers, or one per coordinate.

    Raises ValueError or TypeError on numbers below their minimum, and on starts of another length or without a positive scale.
    """
    latent_dim, dim = (
        validation.as_count(latent_dim, "latent_dim"),
        validation.as_count(dim, "dim"),
    )
    num_layers, width = (
        validation.as_count(num_layers, "num_layers"),
        validation.as_count(width, "width"),
    )
    return _standardised(
        lambda rngs: _Perceptron(latent_dim, dim, width, num_layers, latent_dim == dim, rngs),
        dim,
        init_mean,
        init_scale,
        latent_dim,
    )


def convolutional(
    latent_dim: int,
    shape: tuple[int, int, int],
    *,
    width: int = 32,
    output: str = "linear",
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
) -> Family:
    """The image of N(0, I_latent_dim) under a convolutional generator of pictures; no density.

    Noise goes through a linear map to a grid of a quarter of the height and width, which is doubled twice by nearest neighbours, each time
    with a convolution of 3 x 3, group normalisation and silu after it; a last convolution gives the picture, cut to its height and width.

    It does not start at N(init_mean, init_scale^2 I): mu_0 is the image of the noise under a random network, a law around a surface of
    ``latent_dim`` dimensions whose pixels are correlated with their neighbours. They have mean about init_mean and standard deviation of
    the order of init_scale (before the sigmoid, if there is one). Fit it first (``swjko.families``) if the flow is to start elsewhere.

    Args:
      latent_dim: dimension of the noise; points have dimension h w c, the rows of ``swjko.images.Images.rows``.
      shape: (h, w, c) of a picture, any h and w.
      width: channels after the first doubling; the grid has twice as many and the picture's last layer half as many.
      output: "linear", x = init_mean + init_scale net(z), or "sigmoid", the logistic function of that, for pixels in (0, 1).
      init_mean, init_scale: numbers, or one per coordinate.

    Raises ValueError or TypeError on sizes below 1 and on a shape of other than three.
    Example: ``flows.convolutional(32, (28, 28, 1), output="sigmoid", init_mean=-2.0)``, which starts at dark pictures.
    """
    latent_dim, width = (
        validation.as_count(latent_dim, "latent_dim"),
        validation.as_count(width, "width"),
    )
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise ValueError(
            f"shape must be (height, width, channels) of a picture, such as (28, 28, 1); received {shape!r}."
        )
    h, w, c = (
        validation.as_count(size, f"shape[{at}] ({what})")
        for at, (size, what) in enumerate(zip(shape, _SIDES, strict=True))
    )
    squashed = validation.as_choice(output, "output", ("linear", "sigmoid")) == "sigmoid"
    family = _standardised(
        lambda rngs: convolutions.ConvolutionalGenerator(latent_dim, (h, w, c), width, rngs),
        h * w * c,
        init_mean,
        init_scale,
        latent_dim,
    )
    return Mapped(family, Partial(jax.nn.sigmoid), None, family.dim) if squashed else family


def from_nnx(
    make_model: Callable[[nnx.Rngs], nnx.Module], *, dim: int, latent_dim: int | None = None
) -> Family:
    """A family from a flax nnx model, a pure function of its ``nnx.Param`` variables.

    Args:
      make_model: from ``nnx.Rngs`` to a model on batches: ``model(z)``: [n latent_dim] -> [n dim]; or, for a density,
        ``forward_and_log_det(z)`` -> (points, log_det [n]) and ``inverse_and_log_det(points)`` -> (z, log_det [n]).
      dim: dimension of the points; latent_dim: of z, None means dim.

    mu_0 is the image under the model as initialised. Raises ValueError at construction when output shapes do not fit, or when the model
    keeps other state (batch statistics, random streams), which would be lost between steps.
    """
    validation.require_callable(make_model, "make_model", "from nnx.Rngs to an nnx.Module")
    model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    graph, _, rest = nnx.split(model, nnx.Param, ...)
    if jax.tree.leaves(rest):
        kinds = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(rest)})
        raise ValueError(
            f"make_model must return a model whose only state is nnx.Param; it also holds {', '.join(kinds)}. "
            "Replace batch normalisation by layer normalisation, and dropout by nothing."
        )

    def init(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.split(make_model(nnx.Rngs(key)), nnx.Param, ...)[1])

    if hasattr(model, "forward_and_log_det") and hasattr(model, "inverse_and_log_det"):
        return pushforward(
            init,
            Partial(_forward, graph),
            dim=dim,
            inverse=Partial(_inverse, graph),
            latent_dim=latent_dim,
        )
    return pushforward(init, Partial(_call, graph), dim=dim, latent_dim=latent_dim)


def from_linen(module: linen.Module, *, dim: int, latent_dim: int | None = None) -> Family:
    """A family from a flax linen module, a pure function of its "params".

    Args:
      module: on batches, ``module(z)``: [n latent_dim] -> [n dim]; or, for a density, with methods ``forward_and_log_det(z)`` ->
        (points, log_det [n]) and ``inverse_and_log_det(points)`` -> (z, log_det [n]). Submodules belong in ``setup``, so that both
        methods meet the same ones.
      dim: dimension of the points; latent_dim: of z, None means dim.

    mu_0 is the image under the module as initialised. Raises TypeError or ValueError at construction on anything but a module, on output
    shapes that do not fit, and on modules with other collections (batch statistics), which would be lost between steps.
    """
    if not isinstance(module, linen.Module):
        raise TypeError(
            f"module must be a flax.linen.Module, such as nn.Dense(2); received {type(module).__name__}."
        )
    size = (
        validation.as_count(dim, "dim")
        if latent_dim is None
        else validation.as_count(latent_dim, "latent_dim")
    )
    has_density = hasattr(module, "forward_and_log_det") and hasattr(module, "inverse_and_log_det")
    forward = "forward_and_log_det" if has_density else "__call__"

    def variables(key: Key) -> Any:
        return module.init(key, jnp.zeros((1, size)), method=forward)

    others = sorted(
        set(jax.eval_shape(variables, jax.eval_shape(lambda: jax.random.key(0)))) - {"params"}
    )
    if others:
        raise ValueError(
            f"module must keep nothing but params; it also has {', '.join(others)}. Replace batch normalisation by layer normalisation."
        )

    def apply(method: str) -> Any:
        return lambda params, batch: module.apply({"params": params}, batch, method=method)

    inverse = apply("inverse_and_log_det") if has_density else None
    return pushforward(
        lambda key: variables(key)["params"],
        apply(forward),
        dim=dim,
        inverse=inverse,
        latent_dim=latent_dim,
    )


def from_distrax(
    init: Callable[[Key], Params], make_bijector: Callable[[Params], Any], *, dim: int
) -> Family:
    """The image of N(0, I_dim) under a distrax bijector, with its density.

    Args:
      init: key -> params, any pytree of float arrays; mu_0 is the image under these.
      make_bijector: params -> a bijector of R^dim (``event_ndims_in`` 1), or of each coordinate (0). It is built anew inside the compiled
        program: a bijector is no pytree of its parameters, and one made outside would be a constant without gradient.
      dim: dimension of the points.

    Raises TypeError or ValueError at construction when what is made is no such bijector. Example::

        family = from_distrax(lambda key: {"shift": jnp.zeros(2)},
                              lambda params: distrax.ScalarAffine(shift=params["shift"], scale=2.0), dim=2)
    """
    validation.require_callable(make_bijector, "make_bijector", "from params to a distrax bijector")

    def apply(method: str) -> Any:
        def map_with_log_det(params: Params, batch: Array) -> tuple[Array, Array]:
            bijector = make_bijector(params)
            if not hasattr(bijector, method) or getattr(bijector, "event_ndims_in", None) not in (
                0,
                1,
            ):
                raise TypeError(
                    "make_bijector must return a distrax bijector with event_ndims_in 0 or 1; received "
                    f"{type(bijector).__name__} with event_ndims_in {getattr(bijector, 'event_ndims_in', None)}."
                )
            image, log_det = getattr(bijector, method)(batch)
            if bijector.event_ndims_in == 0:
                log_det = jnp.sum(jnp.broadcast_to(log_det, batch.shape), axis=-1)
            return image, jnp.broadcast_to(log_det, batch.shape[:1])

        return map_with_log_det

    return pushforward(
        init, apply("forward_and_log_det"), dim=dim, inverse=apply("inverse_and_log_det")
    )


def _call(graph, params, z):
    return nnx.merge(graph, params)(z)


def _forward(graph, params, z):
    return nnx.merge(graph, params).forward_and_log_det(z)


def _inverse(graph, params, points):
    return nnx.merge(graph, params).inverse_and_log_det(points)


def _standardised(
    make_model: Callable[[nnx.Rngs], nnx.Module],
    dim: int,
    init_mean: ArrayLike,
    init_scale: ArrayLike,
    latent_dim: int | None = None,
) -> Family:
    """The model's family followed by x -> mean + scale x, so that networks work at unit scale wherever mu_0 is."""
    mean, scale = validation.as_start(dim, init_mean, init_scale)
    family = from_nnx(make_model, dim=dim, latent_dim=latent_dim)
    return Mapped(
        family, Partial(_standardise, mean, scale), Partial(_unstandardise, mean, scale), dim
    )


def _standardise(mean, scale, points):
    mean, scale = _in_precision_of(points, mean, scale)
    return mean[None, :] + scale[None, :] * points, jnp.sum(jnp.log(scale))


def _unstandardise(mean, scale, points):
    mean, scale = _in_precision_of(points, mean, scale)
    return (points - mean[None, :]) / scale[None, :], -jnp.sum(jnp.log(scale))


def _in_precision_of(params, *arrays):
    """A family made in double precision serves parameters in single precision too."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    return [array.astype(dtype) for array in arrays]


class _Perceptron(nnx.Module):
    def __init__(
        self, latent_dim: int, dim: int, width: int, num_layers: int, residual: bool, rngs: nnx.Rngs
    ):
        self.residual = residual
        sizes = [latent_dim] + [width] * num_layers
        self.hidden = nnx.List(
            [nnx.Linear(before, after, rngs=rngs) for before, after in itertools.pairwise(sizes)]
        )
        last_init = nnx.initializers.zeros_init() if residual else nnx.initializers.lecun_normal()
        self.last = nnx.Linear(width, dim, kernel_init=last_init, rngs=rngs)

    def __call__(self, z: Any) -> Any:
        x = z
        for layer in self.hidden:
            x = nnx.silu(layer(x))
        return z + self.last(x) if self.residual else self.last(x)
