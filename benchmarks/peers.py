"""The sliced-Wasserstein distance and its gradient by swjko, by peers, and by NumPy in float64."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import swjko
from benchmarks import common

OURS, FLOOR = "swjko", "no sort"
TORCH_THREADS = (1, 2)
Call = Callable[[], tuple[Any, Any]]


class Case(NamedTuple):
    """Sizes of two clouds of n and m points, and the number of directions."""

    n: int
    m: int
    dim: int
    num_directions: int
    weighted: bool = False

    @property
    def name(self) -> str:
        """Short form for figures."""
        sizes = f"{self.n}" if self.n == self.m else f"{self.n} to {self.m}"
        return f"({sizes}, {self.dim}, {self.num_directions})" + " weighted" * self.weighted

    @property
    def elements(self) -> int:
        """Number of projected points of one cloud, in the mean of both."""
        return (self.n + self.m) * self.num_directions // 2


class Inputs(NamedTuple):
    """float32: x [n d], y [m d], directions [l d]; weights [n], [m] or None."""

    x: Any
    y: Any
    directions: Any
    x_weights: Any = None
    y_weights: Any = None

    def map(self, function: Callable[[Any], Any]) -> "Inputs":
        """The inputs with a function applied to each array."""
        return Inputs(*(None if array is None else function(array) for array in self))


def make_inputs(case: Case) -> Inputs:
    """Draw x ~ N(0, I), y ~ N(1/2, I), unit directions, and weights proportional to U[1/2, 3/2]."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((case.num_directions, case.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x, y = rng.standard_normal((case.n, case.dim)), 0.5 + rng.standard_normal((case.m, case.dim))
    counts = (case.n, case.m) if case.weighted else ()
    weights = [rng.uniform(0.5, 1.5, count) for count in counts]
    inputs = Inputs(x, y, directions, *(weight / weight.sum() for weight in weights))
    return inputs.map(lambda array: array.astype(np.float32))


def methods(inputs: Inputs) -> dict[str, Call]:
    """Calls that return value and gradient in x, by name of the method.

    The gradient of POT on NumPy is None. Names of torch methods end in ``@`` and the threads.
    """
    on_device = inputs.map(jnp.asarray)
    equal = len(inputs.x) == len(inputs.y) and inputs.x_weights is None
    found: dict[str, Call] = {OURS: lambda: ours(*on_device)}
    if equal:
        found |= {"jnp.sort": lambda: _jnp_sort(*on_device), FLOOR: lambda: _no_sort(*on_device)}
    if common.optional("ott") is not None:
        ott_jax = jax.jit(jax.value_and_grad(_ott_sliced_pow))
        found["OTT-JAX"] = lambda: ott_jax(*on_device)
    if common.optional("ot") is not None:
        projections = np.ascontiguousarray(inputs.directions.T)
        found["POT NumPy, value"] = lambda: (_pot_pow(inputs, projections), None)
    if (torch := common.optional("torch")) is not None:
        found |= _torch_methods(torch, inputs.map(torch.tensor), equal)
    return found


def _torch_methods(torch: Any, tensors: Inputs, equal: bool) -> dict[str, Call]:
    tensors.x.requires_grad_()
    values: dict[str, Any] = {"three sorts, torch": lambda: torch_quantiles(torch, tensors)}
    if equal:
        values["torch.sort"] = lambda: torch_sort(torch, tensors)
    if common.optional("ot") is not None:
        columns = tensors.directions.T.contiguous()
        values["POT torch"] = lambda: _pot_pow(tensors, columns)

    def call(value: Callable[[], Any], threads: int) -> tuple[Any, Any]:
        torch.set_num_threads(threads)
        result = value()
        return result.detach(), torch.autograd.grad(result, tensors.x)[0]

    return {
        f"{name}@{threads}": functools.partial(call, value, threads)
        for name, value in values.items()
        for threads in TORCH_THREADS
    }


@jax.jit
@jax.value_and_grad
def ours(x, y, directions, x_weights, y_weights):
    """Value and gradient in x by swjko."""
    return swjko.sliced_wasserstein_pow(x, y, directions, x_weights=x_weights, y_weights=y_weights)


@jax.jit
@jax.value_and_grad
def _jnp_sort(x, y, directions, _x_weights, _y_weights):
    return jnp.mean((jnp.sort(directions @ x.T, axis=1) - jnp.sort(directions @ y.T, axis=1)) ** 2)


@jax.jit
@jax.value_and_grad
def _no_sort(x, y, directions, _x_weights, _y_weights):
    return jnp.mean((directions @ x.T - directions @ y.T) ** 2)


def _ott_sliced_pow(x, y, directions, x_weights, y_weights):
    sliced: Any = common.optional("ott.tools.sliced")
    # The projector gets the points. The cost is the squared distance, without a root.
    options = {"a": x_weights, "b": y_weights, "proj_fn": lambda points: points @ directions.T}
    return sliced.sliced_wasserstein(x, y, **options)[0]


def _pot_pow(inputs: Inputs, projections: Any) -> Any:
    x, y, _, x_weights, y_weights = inputs
    distance = common.optional("ot").sliced_wasserstein_distance
    return distance(x, y, x_weights, y_weights, projections=projections, p=2) ** 2


def torch_sort(torch: Any, inputs: Inputs) -> Any:
    """SW_2^2 of equal clouds: two sorts."""
    u, v = inputs.directions @ inputs.x.T, inputs.directions @ inputs.y.T
    return ((torch.sort(u, dim=1).values - torch.sort(v, dim=1).values) ** 2).mean()


def torch_quantiles(torch: Any, inputs: Inputs) -> Any:
    """SW_2^2 of any clouds over merged levels: three sorts and two searches."""
    sides = []
    for points, weights in ((inputs.x, inputs.x_weights), (inputs.y, inputs.y_weights)):
        ordered, order = torch.sort(inputs.directions @ points.T, dim=1)
        masses = torch.full((len(points),), 1.0 / len(points)) if weights is None else weights
        sides.append((ordered, torch.cumsum(masses[order], dim=1)))
    levels = torch.sort(torch.cat([level for _, level in sides], dim=1), dim=1).values
    masses = torch.diff(levels, dim=1, prepend=torch.zeros(len(levels), 1))
    u, v = (
        ordered.gather(1, torch.searchsorted(level, levels).clamp(max=ordered.shape[1] - 1))
        for ordered, level in sides
    )
    return (masses * (u - v) ** 2).sum(dim=1).mean()


def reference(inputs: Inputs) -> tuple[float, np.ndarray]:
    """SW_2^2 and its gradient in x by NumPy in float64."""
    x, y, directions, *weights = inputs.map(lambda array: np.asarray(array, np.float64))
    n, m = len(x), len(y)
    # Without weights masses are whole multiples of 1 / (n m), so levels coincide exactly.
    masses = (np.full(n, m), np.full(m, n))
    x_weights, y_weights = masses if weights[0] is None else (w / w.sum() for w in weights)
    scale = x_weights.sum()
    value, gradient = 0.0, np.zeros_like(x)
    for direction in directions:
        u, v = x @ direction, y @ direction
        u_order, v_order = np.argsort(u), np.argsort(v)
        u_levels, v_levels = np.cumsum(x_weights[u_order]), np.cumsum(y_weights[v_order])
        levels = np.sort(np.concatenate([u_levels, v_levels]))
        masses = np.diff(levels, prepend=0) / scale
        i = u_order[np.minimum(np.searchsorted(u_levels, levels), n - 1)]
        j = v_order[np.minimum(np.searchsorted(v_levels, levels), m - 1)]
        value += np.sum(masses * (u[i] - v[j]) ** 2)
        slopes = np.bincount(i, 2.0 * masses * (u[i] - v[j]), minlength=n)
        gradient += slopes[:, None] * direction
    return value / len(directions), gradient / len(directions)


def relative_errors(result: tuple[Any, Any], exact: tuple[Any, Any]) -> dict[str, Any]:
    """Relative error of the value, and of the gradient in the Euclidean norm (None without one)."""
    value, gradient = result
    exact_value, exact_gradient = float(exact[0]), np.asarray(exact[1], np.float64)
    errors = {"value": abs(float(value) - exact_value) / exact_value, "gradient": None}
    if gradient is not None:
        difference = np.asarray(gradient, np.float64) - exact_gradient
        errors["gradient"] = np.linalg.norm(difference) / np.linalg.norm(exact_gradient)
    return errors
