"""What ``python -m swjko generate`` draws: Frechet distances to held-out digits, and seconds.

Runs have the numbers of the command line but for what a row names. The Frechet distance is that of
features of a small classifier, trained on the images of the flow, as in ``benchmarks.images``; it
is between the held-out fifth and as many draws, in the mean of ``_REPEATS`` sets of them. Of each
row in the JSON, means and standard deviations over the seeds:

- frechet: at the end; start: of the same generator before it is fitted.
- over_autoencoder: frechet over that of the training codes through the autoencoder, which is the
  floor of rows in codes.
- seconds: wall seconds of ``generate`` in this process, with the autoencoder's fit, compilation
  and scores.

``references`` are the training images themselves, and the training codes through the autoencoder.
Settings were chosen on another split, with the seed 10.
"""

import argparse
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import swjko
from benchmarks import common
from benchmarks.images import classifier
from benchmarks.images.metrics import Scorer, image_data
from swjko.cli.generate import generate, split
from swjko.cli.settings import GENERATE
from swjko.problems import DataError, Images, load_images

_REPEATS = 3
FLAGS = common.Flags(
    quick="scikit-learn's digits, few updates", seeds="number of seeds (default 2)"
)


class Row(NamedTuple):
    """A row of the table, and what it asks of ``generate``."""

    space: str
    generator: str
    slices: str
    told: str

    @property
    def options(self) -> dict[str, Any]:
        """Options of ``generate``."""
        family = {"perceptron": "mlp"}.get(self.generator, self.generator)
        options: dict[str, Any] = {"space": self.space, "family": family, "slices": self.slices}
        if self.told == "class":
            return options | {"by_class": True}
        return options | {"clusters": 1 if self.told == "nothing" else None}


ROWS = (
    Row("latent", "perceptron", "orthogonal", "cluster"),
    Row("latent", "perceptron", "orthogonal", "class"),
    Row("latent", "perceptron", "orthogonal", "nothing"),
    Row("pixels", "convolutional", "convolutional", "cluster"),
    Row("pixels", "convolutional", "convolutional", "nothing"),
    Row("pixels", "convolutional", "orthogonal", "cluster"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the data."""
    text = "directory of the files of MNIST (default: SWJKO_DATA)"
    parser.add_argument("--data-dir", metavar="DIR", help=text)


def main(args: argparse.Namespace) -> int:
    """Measure all rows for each seed."""
    name = "digits" if args.quick else "mnist"
    try:
        images = load_images(name, args.data_dir)
    except DataError as error:
        print(f"benchmarks generate: error: {error}", file=sys.stderr)
        return 2
    seeds = [one_seed(images, seed, args.quick) for seed in range(args.seeds or 2)]
    rows = []
    for at, row in enumerate(ROWS):
        found = {score: [one["rows"][at][score] for one in seeds] for score in _SCORES}
        scores = {score: common.mean_and_deviation(values) for score, values in found.items()}
        rows.append(row._asdict() | scores)
    references = []
    for reference in seeds[0]["references"]:
        spread = common.mean_and_deviation(one["references"][reference] for one in seeds)
        references.append({"reference": reference, "frechet": spread})
    content = {"quick": args.quick, "data": name, "seeds": len(seeds), "rows": rows}
    content |= {"references": references}
    common.finish(args, content, ("", _figure(seeds[0]["drawn"], images.shape)))
    return 0


_SCORES = ("frechet", "start", "over_autoencoder", "seconds")


def one_seed(images: Images, seed: int, quick: bool) -> dict[str, Any]:
    """The scores of all rows and references of a split, and pictures of each row."""
    rows, labels = images.rows(), np.asarray(images.labels, np.int32)
    parts = split(images, seed)
    train, held_out = ((rows[part], labels[part]) for part in parts)
    trained = classifier.train(
        jax.random.key(seed), train, held_out, images.shape, num_steps=60 if quick else 600
    )
    data = image_data(train[0], held_out[0], images.shape, trained)
    score = Scorer(jax.random.key(seed), data, 64, 1)
    found: dict[str, Any] = {"rows": [], "drawn": {"held-out images": data.held_out}}
    found["references"] = {
        "training images": _frechet(score, lambda key: _some(key, data.train, len(data.held_out)))
    }
    for row in ROWS:
        found["rows"].append(_scored(row, images, seed, quick, score, found))
        common.show(f"seed {seed}, {row}", found["rows"][-1])
    return found


def _scored(
    row: Row, images: Images, seed: int, quick: bool, score: Scorer, found: dict[str, Any]
) -> dict[str, float]:
    """Scores of one run; adds its pictures, and the autoencoder's score, to those of the seed."""
    settings = GENERATE._replace(steps=2, inner_steps=4) if quick else GENERATE
    seconds, (outcome, _, space) = common.timed(
        lambda: generate(settings, seed=seed, loaded=images, progress=False, **row.options)
    )
    shown, state = space.show(space.family), outcome.solution.state
    count = len(score.data.held_out)

    @jax.jit
    def draw(params: Any, key: Any) -> Any:
        return shown.push(params, shown.latent(key, count)).points

    floors = found["references"]
    if row.space == "latent" and "codes through the autoencoder" not in floors:
        codes = space.show(swjko.particles(space.target[:count]))
        decode = jax.jit(lambda chosen: codes.push(chosen, jnp.arange(count)).points)
        floors["codes through the autoencoder"] = _frechet(
            score, lambda key: decode(_some(key, space.target, count))
        )
    start = jax.jit(space.family.init)(jax.random.key(seed))
    end = _frechet(score, lambda key: draw(state.params, key))
    found["drawn"][row] = draw(state.params, jax.random.key(7))
    return {
        "frechet": end,
        "start": _frechet(score, lambda key: draw(start, key)),
        "over_autoencoder": end / floors["codes through the autoencoder"],
        "seconds": seconds,
    }


def _some(key: Any, rows: Any, num: int) -> Any:
    """Random rows, without repetition."""
    return rows[np.asarray(jax.random.permutation(key, len(rows)))[:num]]


def _frechet(score: Scorer, draw: Any) -> float:
    """The mean over sets of draws."""
    found = []
    for repeat in range(_REPEATS):
        points = np.clip(np.asarray(draw(jax.random.key(repeat))), 0.0, 1.0)
        found.append(score.few(points)["frechet"])
    return float(np.mean(found))


def _figure(drawn: dict[Any, Any], shape: tuple[int, int, int]) -> Figure:
    """Thirty pictures of the first seed for each row and for the held-out images."""
    figure, axes = common.new_figure(8.0, 0.75 * len(drawn), rows=len(drawn))
    rng = np.random.default_rng(0)
    for (axis,), (row, points) in zip(axes, drawn.items(), strict=True):
        chosen = np.clip(np.asarray(points), 0.0, 1.0)[rng.permutation(len(points))[:30]]
        sheet = chosen.reshape(2, 15, *shape[:2]).transpose(0, 2, 1, 3)
        axis.imshow(sheet.reshape(2 * shape[0], -1), cmap="gray", vmin=0.0, vmax=1.0)
        axis.set(xticks=[], yticks=[])
        label = row if isinstance(row, str) else f"{row.space}, {row.slices}\ntold {row.told}"
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
    return figure
