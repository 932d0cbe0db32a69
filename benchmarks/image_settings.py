"""Numbers of the images benchmark: methods, and how large everything is in each of its sizes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

STEP_SIZE = 5.0


class Updates(NamedTuple):
    """One scheme's numbers. Of ``sliced_flow`` num_inner_steps, moves between two looks at its energy, num_projections and step_size count
    alone; step_size is that of a move, in units of the dimension d, and 1 where it is called unscaled.

    batch: rows of the data drawn for each update; num_samples: points of the measure.
    """

    num_steps: int
    num_inner_steps: int
    num_samples: int
    num_projections: int
    batch: int
    learning_rate: float
    step_size: float = STEP_SIZE


class Sizes(NamedTuple):
    """Numbers of everything by the size of the run; ``network`` holds widths and depths by family and space, ``swf_stages`` the numbers
    of moves at which flows of particles are scored, multiples of their num_inner_steps."""

    seeds: int
    rows: int | None
    classifier_steps: int
    autoencoder_steps: int
    autoencoder_batch: int
    autoencoder_linear: int
    updates: Mapping[str, Updates]
    network: Mapping[str, dict[str, int]]
    swf_stages: Mapping[str, tuple[int, ...]]
    metric_projections: int
    metric_ascents: int
    methods: tuple[str, ...]


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


def _sizes(
    numbers: tuple[Any, ...],
    updates: tuple[tuple[Any, ...], ...],
    network: Mapping[str, dict[str, int]],
    stages: Any,
) -> Sizes:
    seeds, rows, classifier_steps, steps, batch, linear, projections, ascents = numbers
    by_method = {name: Updates(*row) for name, row in zip(METHODS, updates, strict=True)}
    by_stage = {name: part for name, part in zip(_STAGED, stages, strict=True)}
    return Sizes(
        seeds,
        rows,
        classifier_steps,
        steps,
        batch,
        linear,
        by_method,
        network,
        by_stage,
        projections,
        ascents,
        METHODS,
    )


_NETWORK = {
    "ambient coupling": {"num_layers": 4, "width": 128},
    "ambient convolutional": {"width": 16},
    "ambient mlp": {"width": 256},
    "latent coupling": {"num_layers": 6, "width": 64},
    "latent mlp": {"width": 256},
}
# The columns are those of Updates, the rows in the order of METHODS; of flows of particles the last one is the step over the dimension.
# In codes the flow with the scaled step makes as many updates as SW-JKO's particles, the one with the unscaled step as many as networks.
DEFAULT = _sizes(
    (3, None, 600, 1600, 128, 4, 1000, 20),
    (
        (20, 30, 1024, 128, 1024, 3e-3),
        (20, 30, 256, 128, 1024, 3e-3),
        (20, 40, 1024, 128, 1024, 3e-3),
        (1, 4, 0, 784, 0, 0.0, 1.0),
        (5, 480, 1024, 48, 1024, 3e-3),
        (5, 480, 1024, 48, 1024, 5e-3),
        (4, 2500, 5000, 48, 5000, 1.0),
        (1, 25, 0, 48, 0, 0.0, 1.0),
        (5, 480, 1024, 48, 1024, 3e-3),
        (1, 4, 0, 784, 0, 0.0, 1.0),
        (1, 25, 0, 48, 0, 0.0, 1.0),
    ),
    _NETWORK | {"ambient convolutional": {"width": 8}},
    (
        (4, 8, 16, 32, 64),
        (625, 1250, 2500, 5000, 10_000),
        (4, 8, 16, 32, 64),
        (150, 300, 600, 1200, 2400),
    ),
)
# The digits of 8 x 8 pixels. An exact step divides the root of F by 1 + STEP_SIZE, so that a few long steps do more than many short ones.
SMALL = _sizes(
    (5, None, 600, 600, 128, 0, 4000, 50),
    (
        (4, 1200, 2048, 64, 898, 3e-3),
        (20, 40, 512, 64, 898, 3e-3),
        (20, 50, 1024, 64, 898, 3e-3),
        (1600, 1, 0, 64, 0, 0.0, 1.0),
        (10, 80, 1024, 32, 898, 3e-3),
        (10, 80, 1024, 32, 898, 3e-3),
        (10, 80, 898, 32, 898, 1.0),
        (1600, 1, 0, 32, 0, 0.0, 1.0),
        (10, 80, 1024, 32, 898, 3e-3),
        (1600, 1, 0, 64, 0, 0.0, 1.0),
        (1600, 1, 0, 32, 0, 0.0, 1.0),
    ),
    _NETWORK
    | {
        "ambient coupling": {"num_layers": 6, "width": 64},
        "ambient mlp": {"width": 128},
        "latent mlp": {"width": 128},
    },
    ((100, 200, 400, 800, 1600),) * 4,
)
_FEW, _SWF_64, _SWF_32 = (
    (2, 3, 32, 16, 32, 2e-3),
    (4, 1, 0, 64, 0, 0.0, 1.0),
    (4, 1, 0, 32, 0, 0.0, 1.0),
)
QUICK = _sizes(
    (1, 240, 60, 60, 32, 0, 64, 4),
    (_FEW, _FEW, _FEW, _SWF_64, _FEW, _FEW, _FEW, _SWF_32, _FEW, _SWF_64, _SWF_32),
    {
        f"{space} {family}": {"num_layers": 2, "width": 8}
        for space in ("ambient", "latent")
        for family in ("coupling", "mlp")
    }
    | {"ambient convolutional": {"width": 4}},
    ((2, 4),) * 4,
)
# Published numbers of points and directions; updates that a GPU makes in minutes.
FULL = _sizes(
    (3, None, 5000, 20_000, 128, 4, 4000, 100),
    (
        (20, 1000, 1000, 1000, 1000, 2e-3),
        (20, 1000, 1000, 1000, 1000, 2e-3),
        (20, 1000, 1000, 1000, 1000, 2e-3),
        (2000, 1, 0, 784, 0, 0.0, 1.0),
        (10, 2000, 2000, 1000, 2000, 2e-3),
        (10, 2000, 2000, 1000, 2000, 2e-3),
        (10, 400, 30_000, 96, 30_000, 1.0),
        (4000, 1, 0, 96, 0, 0.0, 1.0),
        (10, 2000, 2000, 1000, 2000, 2e-3),
        (2000, 1, 0, 784, 0, 0.0, 1.0),
        (4000, 1, 0, 96, 0, 0.0, 1.0),
    ),
    _NETWORK
    | {
        "ambient coupling": {"num_layers": 8, "width": 256},
        "ambient convolutional": {"width": 32},
        "ambient mlp": {"width": 512},
    },
    ((125, 250, 500, 1000, 2000), (250, 500, 1000, 2000, 4000)) * 2,
)
