"""Methods of the images benchmark, and all numbers in each of its sizes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

STEP_SIZE = 5.0


class Updates(NamedTuple):
    """Numbers of one scheme.

    A ``sliced_flow`` reads three of them alone: num_projections, num_inner_steps (moves between two
    values of its energy) and step_size (of a move, in units of the dimension d, or of 1 in methods
    called unscaled).

    Attributes:
      num_samples: Points of the measure in each update.
      batch: Rows of the data drawn for each update.
    """

    num_steps: int
    num_inner_steps: int
    num_samples: int
    num_projections: int
    batch: int
    learning_rate: float
    step_size: float = STEP_SIZE


class Sizes(NamedTuple):
    """Numbers of everything.

    Attributes:
      updates: Numbers of each method.
      network: Widths and depths by space and family.
      swf_stages: Numbers of moves at which flows of particles are scored, multiples of their
        num_inner_steps.
    """

    seeds: int
    rows: int | None
    classifier_steps: int
    autoencoder_steps: int
    autoencoder_batch: int
    autoencoder_linear: int
    metric_projections: int
    metric_ascents: int
    updates: Mapping[str, Updates]
    network: Mapping[str, dict[str, int]]
    swf_stages: Mapping[str, tuple[int, ...]]


METHODS = (
    "ambient sw_jko coupling",
    "ambient sw_jko convolutional",
    "ambient sw_jko mlp",
    "ambient sliced_flow",
    "latent sw_jko coupling",
    "latent sw_jko mlp",
    "latent sw_jko particles",
    "latent sliced_flow",
    "latent direct coupling",
    "ambient sliced_flow unscaled",
    "latent sliced_flow unscaled",
)
_STAGED = tuple(name for name in METHODS if "sliced_flow" in name)
_NETWORK = {
    "ambient coupling": {"num_layers": 4, "width": 128},
    "ambient convolutional": {"width": 16},
    "ambient mlp": {"width": 256},
    "latent coupling": {"num_layers": 6, "width": 64},
    "latent mlp": {"width": 256},
}


def _updates(*rows: Any) -> dict[str, Updates]:
    return {name: Updates(*row) for name, row in zip(METHODS, rows, strict=True)}


def _moves(num_steps: int, num_inner_steps: int, num_projections: int) -> Updates:
    return Updates(num_steps, num_inner_steps, 0, num_projections, 0, 0.0, 1.0)


def _stages(*stages: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return dict(zip(_STAGED, stages, strict=True))


# Rows of numbers are in the order of METHODS. In codes the flow with the scaled step makes as many
# updates as SW-JKO's particles, and the one with the unscaled step as many as networks.
DEFAULT = Sizes(
    seeds=3,
    rows=None,
    classifier_steps=600,
    autoencoder_steps=1600,
    autoencoder_batch=128,
    autoencoder_linear=4,
    metric_projections=1000,
    metric_ascents=20,
    updates=_updates(
        (20, 30, 1024, 128, 1024, 3e-3),
        (20, 30, 256, 128, 1024, 3e-3),
        (20, 40, 1024, 128, 1024, 3e-3),
        _moves(1, 4, 784),
        (5, 480, 1024, 48, 1024, 3e-3),
        (5, 480, 1024, 48, 1024, 5e-3),
        (4, 2500, 5000, 48, 5000, 1.0),
        _moves(1, 25, 48),
        (5, 480, 1024, 48, 1024, 3e-3),
        _moves(1, 4, 784),
        _moves(1, 25, 48),
    ),
    network=_NETWORK | {"ambient convolutional": {"width": 8}},
    swf_stages=_stages(
        (4, 8, 16, 32, 64),
        (625, 1250, 2500, 5000, 10_000),
        (4, 8, 16, 32, 64),
        (150, 300, 600, 1200, 2400),
    ),
)
# Digits of 8 x 8 pixels. An exact step divides the root of F by 1 + STEP_SIZE, so a few long steps
# do more than many short ones.
SMALL = DEFAULT._replace(
    seeds=5,
    autoencoder_steps=600,
    autoencoder_linear=0,
    metric_projections=4000,
    metric_ascents=50,
    updates=_updates(
        (4, 1200, 2048, 64, 898, 3e-3),
        (20, 40, 512, 64, 898, 3e-3),
        (20, 50, 1024, 64, 898, 3e-3),
        _moves(1600, 1, 64),
        (10, 80, 1024, 32, 898, 3e-3),
        (10, 80, 1024, 32, 898, 3e-3),
        (10, 80, 898, 32, 898, 1.0),
        _moves(1600, 1, 32),
        (10, 80, 1024, 32, 898, 3e-3),
        _moves(1600, 1, 64),
        _moves(1600, 1, 32),
    ),
    network=_NETWORK
    | {"ambient coupling": {"num_layers": 6, "width": 64}}
    | {name: {"width": 128} for name in ("ambient mlp", "latent mlp")},
    swf_stages=_stages(*[(100, 200, 400, 800, 1600)] * 4),
)
_FEW, _PIXELS, _CODES = (2, 3, 32, 16, 32, 2e-3), _moves(4, 1, 64), _moves(4, 1, 32)
QUICK = DEFAULT._replace(
    seeds=1,
    rows=240,
    classifier_steps=60,
    autoencoder_steps=60,
    autoencoder_batch=32,
    autoencoder_linear=0,
    metric_projections=64,
    metric_ascents=4,
    updates=_updates(*(_FEW, _FEW, _FEW, _PIXELS, _FEW, _FEW, _FEW, _CODES, _FEW, _PIXELS, _CODES)),
    network={name: {"num_layers": 2, "width": 8} for name in _NETWORK}
    | {"ambient convolutional": {"width": 4}},
    swf_stages=_stages(*[(2, 4)] * 4),
)
# Published numbers of points and directions, and updates that a GPU makes in minutes.
FULL = DEFAULT._replace(
    classifier_steps=5000,
    autoencoder_steps=20_000,
    metric_projections=4000,
    metric_ascents=100,
    updates=_updates(
        *[(20, 1000, 1000, 1000, 1000, 2e-3)] * 3,
        _moves(2000, 1, 784),
        *[(10, 2000, 2000, 1000, 2000, 2e-3)] * 2,
        (10, 400, 30_000, 96, 30_000, 1.0),
        _moves(4000, 1, 96),
        (10, 2000, 2000, 1000, 2000, 2e-3),
        _moves(2000, 1, 784),
        _moves(4000, 1, 96),
    ),
    network=_NETWORK
    | {"ambient coupling": {"num_layers": 8, "width": 256}}
    | {"ambient convolutional": {"width": 32}, "ambient mlp": {"width": 512}},
    swf_stages=_stages(*[(125, 250, 500, 1000, 2000), (250, 500, 1000, 2000, 4000)] * 2),
)
