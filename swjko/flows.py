"""Families carried by neural networks.

Coupling, spline, continuous and convex potential flows have a density. Perceptrons and generators
of images have none. ``from_nnx``, ``from_linen``, ``from_equinox``, ``from_flowjax`` and
``from_distrax`` take a model of yours.
Params are nested dictionaries of arrays. Families start at mu_0 = N(init_mean, init_scale^2 I)
exactly, except where the function says otherwise.
"""

import functools
import importlib
import math
from typing import Any

from jax.typing import ArrayLike

from swjko.families.adapters import from_distrax, from_linen, from_nnx, standardised
from swjko.families.adapters_equinox import from_equinox, from_flowjax
from swjko.families.base import Family
from swjko.families.bases import Distribution
from swjko.families.conditional import conditional
from swjko.families.generators import convolutional, mlp
from swjko.networks.continuous import ContinuousFlow, Diffrax, RungeKutta
from swjko.networks.convex import ConvexFlow
from swjko.networks.coupling import Affine, CouplingFlow, RationalQuadratic
from swjko.types import validation

__all__ = [
    "cnf",
    "conditional",
    "convolutional",
    "coupling",
    "from_distrax",
    "from_equinox",
    "from_flowjax",
    "from_linen",
    "from_nnx",
    "icnn",
    "mlp",
    "spline",
]


def coupling(
    dim: int,
    *,
    num_layers: int = 6,
    width: int = 64,
    mixing: str = "permutation",
    num_fixed: int = 0,
    init_mean: ArrayLike = 0.0,
    init_scale: ArrayLike = 1.0,
    base: Family | Distribution | None = None,
) -> Family:
    """Makes a RealNVP flow: affine couplings and an affine layer; density and inverse are exact.

    A coupling moves one half u of the coordinates given the other half v: u -> u exp(s(v)) + t(v),
    with -2 <= s <= 2. One perceptron of two hidden layers gives s and t. The last layer is
    x -> b + L U x with triangular L and U. The flow starts at the identity.

    Args:
      dim: Dimension, at least 2. Use ``swjko.gaussian`` or ``mlp(1, 1)`` in one dimension.
      num_layers: Number of couplings; an even number treats all coordinates alike.
      width: Hidden units of each conditioner.
      mixing: What lies between pairs of couplings. "permutation" interleaves the halves. "lu" puts
        an affine layer b + L U x after each interleaving and needs at least three couplings. It is
        more accurate in tens of dimensions if updates are few, and not if they are many
        (``python -m benchmarks ablation --full`` measures it).
      num_fixed: Number of trailing coordinates that are left unchanged; the others move given
        them. At least two must move. The flow then moves conditional laws, for coordinates whose
        law is known: KL(mu | p) is that of their law, a constant, plus the mean KL of the
        conditional laws.
      init_mean: Mean of mu_0, a number or one for each coordinate.
      init_scale: Standard deviation of mu_0, a number or one for each coordinate.
      base: Law of the latents: a family, whose params are learned too, such as
        ``swjko.gaussian_mixture(dim, 40, learned_weights=True)`` or ``swjko.student_t(dim)``, or a
        fixed distribution, such as ``solution.distribution``. None is N(0, I). mu_0 is the image
        of the base under x -> init_mean + init_scale x.

    References:
      Dinh, Sohl-Dickstein, Bengio (2017), arXiv 1605.08803.
      Kingma and Dhariwal (2018), arXiv 1807.03039: the triangular layer.
    """
    num_fixed = validation.as_count(num_fixed, "num_fixed", minimum=0)
    if num_fixed > 0 and validation.as_count(dim, "dim") - num_fixed < 2:
        raise ValueError(
            "num_fixed must leave two coordinates of dim or more to be moved; "
            f"got num_fixed={num_fixed}, dim={dim}."
        )
    lu_mixing = validation.as_choice(mixing, "mixing", ("permutation", "lu")) == "lu"
    if lu_mixing and validation.as_count(num_layers, "num_layers") < 3:
        raise ValueError(
            f"mixing='lu' needs num_layers >= 3, so that it lies between couplings; "
            f"got {num_layers}."
        )
    dim, width, num_layers = _coupling_sizes("coupling", dim, width, num_layers)
    options = {"lu_mixing": lu_mixing, "num_fixed": num_fixed}
    return standardised(
        functools.partial(CouplingFlow, dim, num_layers, width, Affine(), **options),
        dim,
        init_mean,
        init_scale,
        base=base,
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
    base: Family | Distribution | None = None,
) -> Family:
    """Makes a neural spline flow: couplings by rational-quadratic splines and an affine layer.

    Each coordinate of one half goes through a monotone spline whose knots are functions of the
    other half. In units of init_scale around init_mean, a spline acts on [-bound, bound] and is
    the identity outside, so tails stay those of the Gaussian start under an affine map. An update
    costs more than one of ``coupling``; separated modes are reached better.

    Args:
      dim: Dimension, at least 2.
      num_layers: Number of couplings.
      width: Hidden units of each conditioner.
      num_bins: Bins of each spline, at least 2.
      bound: End of the interval, in starting standard deviations.
      init_mean: Mean of mu_0, a number or one for each coordinate.
      init_scale: Standard deviation of mu_0, a number or one for each coordinate.
      base: Law of the latents, as for ``coupling``.

    Raises:
      ModuleNotFoundError: If distrax, whose spline is used, is not installed.

    References:
      Durkan, Bekasov, Murray, Papamakarios (2019), arXiv 1906.04032.
    """
    num_bins = validation.as_count(num_bins, "num_bins", minimum=2)
    if not (math.isfinite(bound) and bound > 0.0):
        raise ValueError(
            f"bound must be a positive number, half the length of the interval; got {bound}."
        )
    importlib.import_module("distrax")  # so that a missing one is found before anything is traced
    dim, width, num_layers = _coupling_sizes("spline", dim, width, num_layers)
    bijection = RationalQuadratic(num_bins, float(bound))
    return standardised(
        functools.partial(CouplingFlow, dim, num_layers, width, bijection),
        dim,
        init_mean,
        init_scale,
        base=base,
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
    base: Family | Distribution | None = None,
) -> Family:
    """Makes a continuous normalising flow, along a velocity A x + b + net(t, x) for unit time.

    log rho(x(1)) = log N(z) - int_0^1 div v(t, x(t)) dt.

    Args:
      dim: Dimension, 1 included.
      width: Hidden units of the velocity's perceptron.
      num_layers: Its hidden layers.
      num_integration_steps: Equal Runge-Kutta steps of fourth order, with four velocities each.
        Densities and inverses hold to the error of the integral: a sixteenth for twice the steps.
      divergence: "exact", by d derivatives, or "hutchinson", by random signs. ``log_density`` and
        ``log_prob`` then agree on the same batch in the same order, and are unbiased over seeds.
        The noise averages out over a batch of ``dim`` or more rows. So estimates are right for
        entropies, which are means of log-densities, and biased for other functions of them
        (``internal_energy``, ``symmetric_kl``). Measure with the "exact" family, which takes the
        same params.
      num_probes: Random signs for each row of a batch.
      seed: Seed of the signs.
      solver: None, or a diffrax solver such as ``diffrax.Tsit5()``: adaptive, to eps^0.7 of the
        dtype, with first step 1 / num_integration_steps.
      init_mean: Mean of mu_0, a number or one for each coordinate.
      init_scale: Standard deviation of mu_0, a number or one for each coordinate.
      base: Law of the latents, as for ``coupling``.

    Raises:
      ModuleNotFoundError: If a solver is given and diffrax is not installed.

    References:
      Chen, Rubanova, Bettencourt, Duvenaud (2018), arXiv 1806.07366.
      Grathwohl et al. (2019), FFJORD, arXiv 1810.01367.
    """
    dim, width, num_layers = _counts(dim=dim, width=width, num_layers=num_layers)
    num_steps = validation.as_count(num_integration_steps, "num_integration_steps")
    probes = _probes(divergence, "divergence", "hutchinson", num_probes)
    seed = validation.as_count(seed, "seed", minimum=0)
    integrator = RungeKutta(num_steps) if solver is None else Diffrax(_as_solver(solver), num_steps)
    return standardised(
        functools.partial(ContinuousFlow, dim, width, num_layers, integrator, probes, seed),
        dim,
        init_mean,
        init_scale,
        base=base,
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
    base: Family | Distribution | None = None,
) -> Family:
    """Makes a convex potential flow, the gradient of an input convex network plus a quadratic.

    x = grad psi(z) and log rho(x) = log N(z) - log det D^2 psi(z). The map is the optimal one from
    N(0, I). Newton's method inverts it, so ``log_prob`` costs several times a push.

    Args:
      dim: Dimension, 1 included.
      width: Hidden units.
      num_layers: Hidden layers.
      rank: Convex quadratics <a, z>^2 that enter each hidden layer.
      strong_convexity: Smallest slope of the map, in units of init_scale, above 0 and below 1. The
        slope at the start is 1.
      log_det: "exact", by the Hessian of each point with d derivatives, or "stochastic" for many
        dimensions, by Lanczos quadrature and conjugate gradients from random signs. What holds for
        the estimated divergence of ``cnf`` holds for it.
      num_probes: Random signs for each row of a batch.
      seed: Seed of the signs.
      init_mean: Mean of mu_0, a number or one for each coordinate.
      init_scale: Standard deviation of mu_0, a number or one for each coordinate.
      base: Law of the latents, as for ``coupling``.

    References:
      Huang, Chen, Tsirigotis, Courville (2021), arXiv 2012.05942.
      Amos, Xu, Kolter (2017), arXiv 1609.07152.
    """
    dim, width, num_layers = _counts(dim=dim, width=width, num_layers=num_layers)
    rank = validation.as_count(rank, "rank")
    alpha = validation.as_fraction(
        strong_convexity,
        "strong_convexity",
        "the convexity of a potential that starts at |z|^2 / 2",
    )
    probes = _probes(log_det, "log_det", "stochastic", num_probes)
    seed = validation.as_count(seed, "seed", minimum=0)
    return standardised(
        functools.partial(ConvexFlow, dim, width, num_layers, rank, alpha, probes, seed),
        dim,
        init_mean,
        init_scale,
        base=base,
    )


def _counts(**sizes: int) -> tuple[int, ...]:
    return tuple(validation.as_count(size, name) for name, size in sizes.items())


def _coupling_sizes(name, dim, width, num_layers):
    if validation.as_count(dim, "dim") == 1:
        raise ValueError(
            f"flows.{name} needs dim >= 2, because a coupling conditions on other coordinates; "
            "got 1. Use swjko.gaussian or flows.mlp(1, 1)."
        )
    return _counts(dim=dim, width=width, num_layers=num_layers)


def _probes(value, name, estimated, num_probes):
    num_probes = validation.as_count(num_probes, "num_probes")
    choice = validation.as_choice(value, name, ("exact", estimated))
    return None if choice == "exact" else num_probes


def _as_solver(solver):
    import diffrax

    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(
            f"solver must be None or a diffrax solver, such as diffrax.Tsit5(); got {solver!r}."
        )
    return solver
