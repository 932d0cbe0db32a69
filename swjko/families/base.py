"""Families of measures: what SW-JKO minimises over. A family says how parameters and latent noise make a cloud of points.

    key -> init -> params;   key -> latent -> z;   (params, z) -> push -> Cloud;   (params, points) -> log_prob -> [n], or None

Pushing the same z with two sets of parameters gives two clouds coupled point by point. ``init`` starts at mu_0 = N(init_mean,
init_scale^2 I), so the first JKO step starts where the flow does. A family of your own is a ``Family`` of four functions; ``pushforward``
makes one from a map.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from swjko import validation
from swjko.linalg import inverse_of_lower_triangular
from swjko.types import Cloud, Key, Params, Scalar, as_partial, static_field


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Family:
    """A parametrised set of measures on R^dim.

    Attributes:
      init: key -> params.
      latent: (key, num) -> z, a batch of num latents.
      push: (params, z) -> Cloud of num points, with ``log_density`` when ``has_density``.
      log_prob: (params, points [n dim]) -> [n], or None without a density, or with one that is known at the pushed points alone.
      dim: dimension of the points.
      has_density: whether the measures have a density that is known in closed form.
      is_finite: whether the measures are finitely many points that ``latent`` enumerates, and clouds are not samples of anything larger.
    """

    init: Partial
    latent: Partial
    push: Partial
    log_prob: Partial
    dim: int = static_field()
    has_density: bool = static_field()
    is_finite: bool = dataclasses.field(default=False, metadata={"static": True})


def sample(family: Family, params: Params, key: Key, num: int) -> Cloud:
    """A cloud of ``num`` points drawn from the family's measure at ``params``, with log-density where the family has one.

    Points are [num d]. Raises TypeError for what is no ``Family`` and ValueError on a count below 1.
    """
    require_family(family)
    return family.push(params, family.latent(key, validation.as_count(num, "num")))


def particles(points: Float[Array, "n d"]) -> Family:
    """Equal particles: mu = sum_i delta(x_i) / n; params are the points [n d], starting at ``points``.

    ``latent(key, num)`` picks indices: all n in order when num == n, a subset without replacement when num < n, and independent draws of
    the empirical measure when num > n. There is no density: functionals that need one refuse this family. Raises ValueError or TypeError on
    points that are not [n d] finite floats.
    """
    points = validation.as_points(points, "points")
    return Family(
        init=Partial(_same_for_all_keys, points),
        latent=Partial(_particles_latent, points),
        push=Partial(_particles_push),
        log_prob=Partial(_no_log_prob),
        dim=points.shape[1],
        has_density=False,
        is_finite=True,
    )


def grid(
    points: Float[Array, "n d"],
    cell_volume: float | Scalar,
    *,
    weights: Float[Array, " n"] | None = None,
) -> Family:
    """Weights on fixed points, mu = sum_i w_i delta(x_i), read as the density w_i / cell_volume on cells around them.

    Params are logits [n], w = softmax(logits). Clouds hold all points and their weights, so a scheme asks for num_samples == n; nothing is
    drawn at random. With d = 1 every direction gives the exact distance, and num_projections=1 is enough.

    Args:
      points: [n d], such as the centres of the cells of a regular grid.
      cell_volume: of one cell, in units of length^d.
      weights: [n] of mu_0, nonnegative and summing to one; None is uniform.

    Raises ValueError or TypeError on points, volumes or weights that do not fit, and on another number of samples. Source: Bonet et al.
    (2022), arXiv 2110.10972. Example: ``grid(jnp.linspace(-4.0, 4.0, 161)[:, None], 0.05)``.
    """
    points, cell_volume = (
        validation.as_points(points, "points"),
        validation.as_positive(cell_volume, "cell_volume"),
    )
    if cell_volume.shape != ():
        raise ValueError(
            f"cell_volume must be one number, the volume of each cell; received shape {cell_volume.shape}."
        )
    weights = validation.as_weights(weights, points.shape[0], "weights")
    logits = (
        jnp.zeros_like(points[:, 0])
        if weights is None
        else jnp.log(jnp.maximum(weights, jnp.finfo(weights.dtype).tiny))
    )
    return Family(
        init=Partial(_same_for_all_keys, logits),
        latent=Partial(_grid_latent, points),
        push=Partial(_grid_push, points, cell_volume.astype(points.dtype)),
        log_prob=Partial(_no_log_prob),
        dim=points.shape[1],
        has_density=True,
        is_finite=True,
    )


def gaussian(dim: int, *, init_mean: ArrayLike = 0.0, init_scale: ArrayLike = 1.0) -> Family:
    """All Gaussians N(mean, F F^T), x = mean + F z with z ~ N(0, I) and F lower triangular with a positive diagonal.

    params: {"mean": [d], "log_diagonal": [d], "lower": [d d], its strictly lower part used}. Starts at N(init_mean, init_scale^2 I).

    Args:
      dim: dimension, 1 included.
      init_mean, init_scale: numbers, or one per coordinate.

    Raises ValueError or TypeError on a dimension below 1 and on starts of another length or without a positive scale.
    """
    dim = validation.as_count(dim, "dim")
    init_mean, init_scale = validation.as_start(dim, init_mean, init_scale)
    return Family(
        init=Partial(_gaussian_init, init_mean, init_scale),
        latent=Partial(_normal_latent, jnp.zeros((dim,), init_mean.dtype)),
        push=Partial(_gaussian_push),
        log_prob=Partial(_gaussian_log_prob),
        dim=dim,
        has_density=True,
    )


def gaussian_mixture(
    dim: int, num_components: int = 32, *, init_mean: ArrayLike = 0.0, init_scale: ArrayLike = 1.0
) -> Family:
    """Equal parts of ``num_components`` Gaussians, each with a mean and a covariance of its own; no network, and its points move alone.

    log rho = logsumexp_k log N(mean_k, F_k F_k^T) - log num_components. A batch of latents holds the components in equal numbers, in an
    order drawn anew, and a remainder of components drawn at random. Separated modes cost nothing here and networks much; a law that
    is no small sum of Gaussians is another matter. Source: Lambert, Chewi, Bach, Bonnabel, Rigollet (2022), arXiv 2205.15902.

    params: those of ``gaussian`` with a leading axis of components. Components that start equal would stay so: the centres are drawn
    from N(init_mean, init_scale^2 I / 2) around which each has half of the variance, so that mu_0 is N(init_mean, init_scale^2 I) in the
    mean over keys and for many components, not exactly.

    Args:
      dim: dimension, 1 included.
      num_components: Gaussians, of weight 1 / num_components for ever: what several of them share are the weights of modes.
      init_mean, init_scale: numbers, or one per coordinate.

    Raises ValueError or TypeError on counts below 1 and on starts of another length or without a positive scale.
    """
    dim, num_components = (
        validation.as_count(dim, "dim"),
        validation.as_count(num_components, "num_components"),
    )
    init_mean, init_scale = validation.as_start(dim, init_mean, init_scale)
    return Family(
        init=Partial(
            _mixture_init, init_mean, init_scale, jnp.zeros((num_components, dim), init_mean.dtype)
        ),
        latent=Partial(_mixture_latent, jnp.zeros((num_components, dim), init_mean.dtype)),
        push=Partial(_mixture_push),
        log_prob=Partial(_mixture_log_prob),
        dim=dim,
        has_density=True,
    )


def gaussian_moments(params: Params) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Mean [d] and covariance [d d] of the ``gaussian`` family at ``params``."""
    factor = _gaussian_factor(params)
    return params["mean"], factor @ factor.T


def pushforward(
    init: Callable[[Key], Params],
    transform: Callable[[Params, Array], Any],
    *,
    dim: int,
    inverse: Callable[[Params, Array], tuple[Array, Array]] | None = None,
    latent_dim: int | None = None,
) -> Family:
    """The image of N(0, I) under a map that you write.

    Args:
      init: key -> params, any pytree of float arrays. mu_0 is the image under these.
      transform: (params, z [n latent_dim]) -> points [n dim]; with ``inverse`` given, -> (points, log_det [n]) where log_det is
        log |det d points / d z|.
      dim: dimension of the points.
      inverse: (params, points [n dim]) -> (z [n dim], log_det [n]), log_det = log |det d z / d points|. With it the family has a density.
      latent_dim: dimension of z; None means dim. A density needs latent_dim == dim.

    Raises ValueError or TypeError at construction when shapes do not fit; nothing is computed for that check.
    """
    dim = validation.as_count(dim, "dim")
    latent_dim = dim if latent_dim is None else validation.as_count(latent_dim, "latent_dim")
    validation.require_callable(init, "init", "from a key to params")
    validation.require_callable(transform, "transform", "from (params, z) to points")
    if inverse is not None and latent_dim != dim:
        raise ValueError(
            f"a pushforward with an inverse must keep the dimension; received latent_dim {latent_dim} and dim {dim}."
        )
    template = jnp.zeros((latent_dim,))
    if inverse is None:
        push, log_prob = (Partial(_push_points, as_partial(transform)), Partial(_no_log_prob))
    else:
        validation.require_callable(inverse, "inverse", "from (params, points) to (z, log_det)")
        push, log_prob = (
            Partial(_push_with_density, as_partial(transform)),
            Partial(_pullback_log_prob, as_partial(inverse)),
        )
    family = Family(
        as_partial(init),
        Partial(_normal_latent, template),
        push,
        log_prob,
        dim,
        inverse is not None,
    )
    check_family(family)
    return family


def require_family(family: Any) -> None:
    if not isinstance(family, Family):
        raise TypeError(
            f"family must be a swjko Family, such as swjko.gaussian(2); received {type(family).__name__}."
        )


def check_family(family: Family) -> None:
    """Evaluates shapes only; raises ValueError naming what a push or a log_prob of the wrong shape returned."""
    num = 3
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(family.init, key)
    cloud = jax.eval_shape(
        lambda params, key: family.push(params, family.latent(key, num)), params, key
    )
    if not isinstance(cloud, Cloud) or cloud.points.shape != (num, family.dim):
        received = cloud.points.shape if isinstance(cloud, Cloud) else type(cloud).__name__
        raise ValueError(
            f"the map of a family of dimension {family.dim} must send {num} latents to shape {(num, family.dim)}; received {received}."
        )
    if family.has_density:
        log_prob = jax.eval_shape(family.log_prob, params, cloud.points)
        for name, value in (
            ("log_density of the pushed cloud", cloud.log_density),
            ("log_prob", log_prob),
        ):
            if value is None or value.shape != (num,):
                raise ValueError(
                    f"{name} must have one value for each of {num} points; received {value and value.shape}."
                )


def standard_normal_log_prob(z: Float[Array, "n d"]) -> Float[Array, " n"]:
    return -0.5 * (jnp.sum(z**2, axis=-1) + z.shape[-1] * jnp.log(2 * jnp.pi))


def _normal_latent(template: Float[Array, " d"], key: Key, num: int) -> Float[Array, "n d"]:
    return jax.random.normal(key, (num, *template.shape), template.dtype)


def _same_for_all_keys(params, key):
    del key
    return params


def _particles_latent(points, key, num):
    count = points.shape[0]
    if num == count:
        return jnp.arange(count)
    return jax.random.choice(key, count, (num,), replace=num > count)


def _particles_push(params, z):
    return Cloud(params[z])


def _grid_latent(points, key, num):
    del key
    if num != points.shape[0]:
        raise ValueError(
            f"a grid gives all of its {points.shape[0]} points with their weights: take num_samples={points.shape[0]}, not {num}."
        )
    return jnp.arange(num)


def _grid_push(points, cell_volume, params, z):
    log_weights = jax.nn.log_softmax(params)
    return Cloud(points[z], jnp.exp(log_weights)[z], (log_weights - jnp.log(cell_volume))[z])


def _no_log_prob(params, points):
    del params, points


def _gaussian_init(init_mean, init_scale, key):
    del key
    dim = init_mean.shape[0]
    return {
        "mean": init_mean,
        "log_diagonal": jnp.log(init_scale),
        "lower": jnp.zeros((dim, dim), init_mean.dtype),
    }


def _gaussian_factor(params):
    return jnp.tril(params["lower"], -1) + jnp.diag(jnp.exp(params["log_diagonal"]))


def _gaussian_push(params, z):
    points = params["mean"][None, :] + z @ _gaussian_factor(params).T
    return Cloud(points, None, standard_normal_log_prob(z) - jnp.sum(params["log_diagonal"]))


def _gaussian_log_prob(params, points):
    z = (points - params["mean"][None, :]) @ inverse_of_lower_triangular(_gaussian_factor(params)).T
    return standard_normal_log_prob(z) - jnp.sum(params["log_diagonal"])


def _mixture_init(init_mean, init_scale, template, key):
    num, dim = template.shape
    centers = init_mean[None, :] + init_scale[None, :] * jax.random.normal(
        key, (num, dim), template.dtype
    ) / jnp.sqrt(2.0)
    log_diagonal = jnp.broadcast_to(jnp.log(init_scale) - jnp.log(2.0) / 2, (num, dim))
    return {
        "mean": centers,
        "log_diagonal": log_diagonal,
        "lower": jnp.zeros((num, dim, dim), template.dtype),
    }


def _mixture_latent(template, key, num):
    component_key, noise_key = jax.random.split(key)
    components = jax.random.permutation(component_key, template.shape[0])
    return components[jnp.arange(num) % template.shape[0]], jax.random.normal(
        noise_key, (num, template.shape[1]), template.dtype
    )


def _mixture_push(params, z):
    component, noise = z
    factors = jax.vmap(_gaussian_factor)(params)
    points = params["mean"][component] + jnp.einsum("nij,nj->ni", factors[component], noise)
    return Cloud(points, None, _mixture_log_prob(params, points))


def _mixture_log_prob(params, points):
    log_probs = jax.vmap(_gaussian_log_prob, in_axes=(0, None), out_axes=1)(params, points)
    return jax.nn.logsumexp(log_probs, axis=1) - jnp.log(1.0 * log_probs.shape[1])


def _push_points(transform, params, z):
    return Cloud(transform(params, z))


def _push_with_density(transform, params, z):
    points, log_det = _with_log_det(transform(params, z), z, "transform")
    return Cloud(points, None, standard_normal_log_prob(z) - log_det)


def _pullback_log_prob(inverse, params, points):
    z, log_det = _with_log_det(inverse(params, points), points, "inverse")
    return standard_normal_log_prob(z) + log_det


def _with_log_det(result, batch, name):
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{name} of a pushforward with a density must return a pair, its image and log_det; received {type(result).__name__}."
        )
    if jnp.shape(result[1]) != batch.shape[:1]:
        raise ValueError(
            f"{name} must return log_det with one value for each point, {batch.shape[:1]}; received {jnp.shape(result[1])}."
        )
    return result
