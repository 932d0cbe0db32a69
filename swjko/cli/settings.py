"""Settings and choices of the problems of the command line, without what solves them."""

from typing import NamedTuple


class Settings(NamedTuple):
    """Numbers of a run. Adam starts at learning_rate, and falls to zero within each JKO step."""

    steps: int
    step_size: float
    inner_steps: int
    samples: int
    projections: int
    learning_rate: float = 3e-3


# Largest whole numbers. A run near several of them at once is refused for its memory.
MOST = {
    "steps": 10**6,
    "inner_steps": 10**6,
    "samples": 10**7,
    "projections": 10**6,
    "dim": 10**4,
    "flows": 10**5,
}

# SW time 8: the slowest modes of a random precision have eigenvalues of about 0.1.
FOKKER_PLANCK = Settings(steps=20, step_size=0.4, inner_steps=150, samples=512, projections=64)

# A step of 1 / dimension has the length of a Wasserstein step of 1 in coordinates near N(0, I).
POSTERIOR = Settings(steps=20, step_size=0.0, inner_steps=100, samples=0, projections=64)

MATCH = Settings(steps=20, step_size=0.5, inner_steps=100, samples=512, projections=64)
MATCH_SCALES = ("columns", "whiten", "common")
MATCH_FAMILIES = ("mlp", "coupling")

# Zeros are replaced by the numbers of the family. With 512 samples, sampling noise hides the
# remaining error in 64 pixels. A perceptron of codes learns where points arrive after a long drift.
GENERATE = Settings(steps=0, step_size=0.0, inner_steps=250, samples=0, projections=256)
_JKO = {"steps": 6, "step_size": 5.0, "samples": 1024}
GENERATE_NUMBERS = {
    "mlp": {"steps": 24, "step_size": 40.0, "samples": 2500},
    "coupling": _JKO,
    "convolutional": _JKO | {"samples": 256},
}
GENERATE_FAMILIES = ("auto", "mlp", "coupling", "convolutional")
GENERATE_SPACES = ("auto", "pixels", "latent")
GENERATE_SLICES = ("orthogonal", "convolutional")
