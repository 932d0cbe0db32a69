"""Times updates of SW-JKO in eager PyTorch, as the published method makes them.

Bonet et al. (2022), arXiv 2110.10972, minimise E[-log p(x) + log rho(x)] + SW_2^2 / (2 tau) over a
RealNVP by Adam, with fresh latents and directions in each update, autograd through the distance,
and the density of a pushed latent from the log-determinants along its way. This is written anew
from that description, with the flow sizes, energy, points and directions of ``benchmarks.update``.
It has neither the triangular layer nor the correction of the bias of ``swjko``, so it does less.

``python -m benchmarks.torch_update SIZES THREADS DISTANCE`` times ``num_updates`` updates for each
line of its input, and prints ``[seconds, objective]``. DISTANCE is "sorts", which needs clouds of
equal sizes, or "quantiles", the estimator for any weights that the authors' code uses.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import common, peers

_STEP_SIZE, _RATE = 0.1, 1e-3
_DISTANCES = {"sorts": peers.torch_sort, "quantiles": peers.torch_quantiles}


def main(sizes: Sequence[int], threads: int, distance: str) -> None:
    """Answers each line of the input with seconds and the objective."""
    torch, distance_pow = common.optional("torch"), _DISTANCES[distance]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dim, num_layers, width, num_samples, num_projections, num_updates = sizes
    current, anchor = (_couplings(torch, dim, num_layers, width) for _ in range(2))
    parameters = [weight for layer in current for net in layer for weight in net.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)

    def update() -> Any:
        latent = torch.randn(num_samples, dim)
        directions = torch.nn.functional.normalize(torch.randn(num_projections, dim))
        with torch.no_grad():
            before, _ = _push(torch, anchor, latent)
        points, log_slope = _push(torch, current, latent)
        energy = -(_log_prob(torch, points) + log_slope).mean()
        sw_pow = distance_pow(torch, peers.Inputs(points, before, directions))
        objective = energy + sw_pow / (2 * _STEP_SIZE)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        return objective.detach()

    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(num_updates):
            objective = update()
        print(json.dumps([time.perf_counter() - start, float(objective)]), flush=True)


def _couplings(torch: Any, dim: int, num_layers: int, width: int) -> list[Any]:
    """Networks of s and t of each coupling, from one half to the other, in turns."""
    half = dim // 2
    ways = [(half, dim - half), (dim - half, half)]

    def net(num_in: int, num_out: int) -> Any:
        linear, relu = torch.nn.Linear, torch.nn.LeakyReLU
        layers = (linear(num_in, width), relu(0.2), linear(width, width), relu(0.2))
        return torch.nn.Sequential(*layers, linear(width, num_out))

    return [[net(*ways[index % 2]) for _ in range(2)] for index in range(num_layers)]


def _push(torch: Any, couplings: Any, latent: Any) -> tuple[Any, Any]:
    """Points [n d], and the log-determinants [n] of their Jacobians."""
    first, second = latent[:, : latent.shape[1] // 2], latent[:, latent.shape[1] // 2 :]
    log_slope = torch.zeros(len(latent))
    for scale_net, shift_net in couplings:
        log_scale = torch.tanh(scale_net(first))
        second = second * torch.exp(log_scale) + shift_net(first)
        log_slope = log_slope + log_scale.sum(dim=1)
        first, second = second, first
    return torch.cat([first, second], dim=1), log_slope


def _log_prob(torch: Any, points: Any) -> Any:
    return torch.logaddexp(-((points - 1) ** 2).sum(dim=1), -((points + 1) ** 2).sum(dim=1))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
