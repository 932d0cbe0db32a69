"""What a GPU makes of the distance, of an update and of many flows, in less than ten minutes.

It needs this checkout, jax and optax. PyTorch is compared if it is installed with a GPU build, and
coupling flows are measured if flax is installed. Without a GPU the CPU is measured, which shows
that it runs. In the JSON:

- kernel: for each size, median seconds of a value and gradient in the points of the first cloud,
  and of the same by ``torch.sort`` on the same card. ``bandwidth_fraction`` is the time in which
  the card could move the bytes of the program's launches, over the measured time; those bytes are
  an upper bound, and the bandwidth is that of an H100 with 80 GB, so it is null for other devices.
- update: for each setting, seconds to compile a step, and ms of an update and of a step.
- flows: for each number of flows under one ``vmap``, seconds of a step and flows per second.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import swjko
from benchmarks import common, gpu_programs, update

FLAGS = common.Flags()
# (points, dimension, directions), those of ``benchmarks.kernel``.
_KERNELS = (
    *((1000, 2, 100), (500, 64, 500), (2000, 784, 1000), (16384, 32, 256)),
    (100_000, 16, 64),
)
_FLOWS = (1, 4, 16, 64, 256, 1024)


def main(args: argparse.Namespace) -> None:
    """Measures all parts; each prints its rows at once."""
    kernels, settings, flows, repeats = _KERNELS, update.SETTINGS, _FLOWS, 20
    if args.quick:
        kernels, settings, flows, repeats = _KERNELS[:1], update.QUICK, _FLOWS[:2], 2
    content: dict[str, Any] = {"repeats": repeats, "backend": jax.default_backend()}
    content["kernel"] = [kernel_row(sizes, repeats) for sizes in kernels]
    if common.optional("flax"):
        content["update"] = [update_row(setting, repeats) for setting in settings]
    content["flows"] = [flows_row(number, repeats) for number in flows]
    common.finish(args, content)


def kernel_row(sizes: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    """Times value and gradient of the distance, and their re-expression in torch."""
    n, d, num_directions = sizes
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, d)).astype(np.float32) + shift for shift in (0.0, 0.5))
    directions = np.asarray(swjko.uniform_directions(jax.random.key(0), num_directions, d))
    inputs = tuple(map(jnp.asarray, (x, y, directions)))
    function = jax.jit(jax.value_and_grad(swjko.sliced_wasserstein_pow))
    compiled = function.lower(*inputs).compile()
    functions: dict[str, Callable[[], Any]] = {"swjko": lambda: compiled(*inputs)}
    torch = _torch_with_gpu()
    if torch is not None:
        functions["torch"] = _torch_distance(torch, x, y, directions)
    medians = common.interleaved_medians(functions, repeats=repeats)
    row: dict[str, Any] = {"n": n, "dim": d, "directions": num_directions, **medians}
    row["bandwidth_fraction"] = None
    if "H100" in jax.devices()[0].device_kind:
        bound = gpu_programs.launches(compiled.as_text() or "")["roofline_ms"]
        row["bandwidth_fraction"] = bound / (1e3 * medians["swjko"])
    common.show("kernel", row)
    return row


def update_row(setting: update.Setting, repeats: int) -> dict[str, Any]:
    """Compiles and times one step of a coupling flow."""
    scheme = update.scheme_of(setting[1:])
    key = jax.random.key(0)
    state = jax.jit(scheme.init)(key)
    program = jax.jit(lambda key, scheme, state: scheme.step(key, state))
    compile_seconds, compiled = common.timed(lambda: program.lower(key, scheme, state).compile())
    functions = {"step": lambda: compiled(key, scheme, state)}
    seconds = common.interleaved_medians(functions, repeats=repeats)["step"]
    row = {**setting._asdict(), "compile_seconds": compile_seconds, "ms_per_step": 1e3 * seconds}
    row["ms_per_update"] = 1e3 * seconds / (setting.num_updates + 1)
    common.show("update", row)
    return row


def flows_row(number: int, repeats: int) -> dict[str, Any]:
    """Times a step of 50 updates of many flows of a Gaussian family."""
    energy = swjko.kl_divergence(lambda x: -jnp.sum((x - 1.0) ** 2))
    scheme = swjko.sw_jko(
        swjko.gaussian(4),
        energy,
        optax.adam(1e-2),
        step_size=0.1,
        num_inner_steps=50,
        num_samples=256,
        num_projections=32,
    )
    keys = jax.random.split(jax.random.key(0), number)
    states = jax.jit(jax.vmap(scheme.init))(keys)
    step = jax.jit(jax.vmap(scheme.step))
    functions = {"step": lambda: step(keys, states)}
    seconds = common.interleaved_medians(functions, repeats=repeats)["step"]
    row = {"flows": number, "seconds_per_step": seconds, "flows_per_second": number / seconds}
    common.show("flows", row)
    return row


def _torch_with_gpu() -> Any:
    torch = common.optional("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _torch_distance(torch: Any, *arrays: np.ndarray) -> Callable[[], Any]:
    x, y, directions = (torch.from_numpy(array).cuda() for array in arrays)
    x.requires_grad_(True)

    def value_and_gradient() -> Any:
        u, v = (torch.sort(points @ directions.T, dim=0).values for points in (x, y))
        value = ((u - v) ** 2).mean()
        (gradient,) = torch.autograd.grad(value, x)
        torch.cuda.synchronize()
        return float(value), gradient.shape

    return value_and_gradient
