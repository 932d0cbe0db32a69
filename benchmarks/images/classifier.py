"""A small convolutional classifier, whose features are what sets of images are compared in.

The features are those before the last layer. They are no Inception features, so distances in them
cannot be compared with published ones. They are divided by one number, for a total variance of 1 on
the training half.
"""

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from swjko.types import Key, Params

NUM_FEATURES = 64
_WIDTH, _BATCH, _BLOCK = 16, 128, 500


class Classifier(NamedTuple):
    """A trained network, the scale of its features, its accuracy, and a hash of its weights."""

    graph: Any
    params: Params
    scale: float
    test_accuracy: float
    sha256: str

    def features(self, rows: Any, shape: tuple[int, int, int]) -> np.ndarray:
        """Features [n 64] in float64 of rows in [0, 1]."""
        return self._in_blocks(_features, rows, shape) / self.scale

    def labels(self, rows: Any, shape: tuple[int, int, int]) -> np.ndarray:
        """The likeliest class of each row, [n]."""
        return self._in_blocks(_logits, rows, shape).argmax(axis=1)

    def _in_blocks(self, function: Any, rows: Any, shape: tuple[int, int, int]) -> np.ndarray:
        blocks = [rows[first : first + _BLOCK] for first in range(0, len(rows), _BLOCK)]
        images = (jnp.asarray(block).reshape(-1, *shape) for block in blocks)
        parts = [function(self.graph, self.params, part) for part in images]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])


def train(
    key: Key,
    train_set: tuple[Any, Any],
    test_set: tuple[Any, Any],
    shape: tuple[int, int, int],
    *,
    num_steps: int,
) -> Classifier:
    """Train by Adam on minibatches of 128, each image shifted by up to a fourteenth of its sides.

    Args:
      key: Random key.
      train_set: Rows [n h*w*c] in [0, 1], and labels [n], whole numbers from 0.
      test_set: The same for the accuracy.
      shape: Height, width and channels of an image.
      num_steps: Number of updates.
    """
    rows, labels = (jnp.asarray(part) for part in train_set)
    init_key, run_key = jax.random.split(key)
    graph, params = nnx.split(_Network(shape, int(labels.max()) + 1, nnx.Rngs(init_key)))
    params = nnx.to_pure_dict(params)
    params = _fit(run_key, graph, params, rows.reshape(-1, *shape), labels, num_steps=num_steps)
    content = b"".join(np.asarray(leaf, np.float32).tobytes() for leaf in jax.tree.leaves(params))
    classifier = Classifier(graph, params, 1.0, 0.0, hashlib.sha256(content).hexdigest())
    scale = float(np.sqrt(classifier.features(rows, shape).var(axis=0).sum()))
    classifier = classifier._replace(scale=scale)
    right = classifier.labels(test_set[0], shape) == np.asarray(test_set[1])
    return classifier._replace(test_accuracy=float(np.mean(right)))


class _Network(nnx.Module):
    def __init__(self, shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs):
        height, length, channels = shape
        self.first = nnx.Conv(channels, _WIDTH, (3, 3), strides=(2, 2), rngs=rngs)
        self.second = nnx.Conv(_WIDTH, 2 * _WIDTH, (3, 3), strides=(2, 2), rngs=rngs)
        flat = -(-height // 4) * -(-length // 4) * 2 * _WIDTH
        self.hidden = nnx.Linear(flat, NUM_FEATURES, rngs=rngs)
        self.last = nnx.Linear(NUM_FEATURES, num_classes, rngs=rngs)

    def features(self, images: Any) -> Any:
        x = nnx.silu(self.second(nnx.silu(self.first(images))))
        return nnx.silu(self.hidden(x.reshape(x.shape[0], -1)))

    def __call__(self, images: Any) -> Any:
        return self.last(self.features(images))


@functools.partial(jax.jit, static_argnames=("num_steps",))
def _fit(key, graph, params, images, labels, num_steps):
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, num_steps), weight_decay=1e-3)
    most = images.shape[1] // 14

    def loss(params, batch, batch_labels):
        logits = nnx.merge(graph, params)(batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch_labels)
        return jnp.mean(losses)

    def shifted(image, shift):
        return jnp.roll(image, shift, axis=(0, 1))

    def update(carry, key):
        params, state = carry
        draw_key, shift_key = jax.random.split(key)
        chosen = jax.random.randint(draw_key, (_BATCH,), 0, images.shape[0])
        shifts = jax.random.randint(shift_key, (_BATCH, 2), -most, most + 1)
        batch = jax.vmap(shifted)(images[chosen], shifts)
        gradient = jax.grad(loss)(params, batch, labels[chosen])
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    return lax.scan(update, start, jax.random.split(key, num_steps))[0][0]


@jax.jit
def _features(graph, params, images):
    return nnx.merge(graph, params).features(images)


@jax.jit
def _logits(graph, params, images):
    return nnx.merge(graph, params)(images)
