"""A small convolutional classifier, whose penultimate layer gives the features in which sets of images are compared.

It is trained on the half of the data that the flows are trained on. Its features are no Inception features, so distances in them are not
to be compared with published ones. They are divided by one number, for a total variance of 1 on the training half.
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
    """graph: of the network; params; scale: of its features; test_accuracy; sha256: of the weights' bytes."""

    graph: Any
    params: Params
    scale: float
    test_accuracy: float
    sha256: str

    def features(self, rows: Any, shape: tuple[int, int, int]) -> np.ndarray:
        """[n 64] float64 of rows in [0, 1]."""
        return self._in_blocks(_features, rows, shape) / self.scale

    def labels(self, rows: Any, shape: tuple[int, int, int]) -> np.ndarray:
        """[n], the likeliest class of each row."""
        return self._in_blocks(_logits, rows, shape).argmax(axis=1)

    def _in_blocks(self, function: Any, rows: Any, shape: tuple[int, int, int]) -> np.ndarray:
        blocks = [rows[first : first + _BLOCK] for first in range(0, len(rows), _BLOCK)]
        parts = [
            function(self.graph, self.params, jnp.asarray(block).reshape(-1, *shape))
            for block in blocks
        ]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])


def train(
    key: Key,
    train_set: tuple[Any, Any],
    test_set: tuple[Any, Any],
    shape: tuple[int, int, int],
    *,
    num_steps: int,
) -> Classifier:
    """Trains by Adam on minibatches of 128, each image moved by up to a fourteenth of its sides.

    Args: train_set, test_set: rows [n h*w*c] in [0, 1] and labels [n], whole numbers from 0; num_steps: updates.
    """
    rows, labels = (jnp.asarray(part) for part in train_set)
    init_key, run_key = jax.random.split(key)
    graph, params = nnx.split(_Network(shape, int(labels.max()) + 1, nnx.Rngs(init_key)))
    params = nnx.to_pure_dict(params)
    params = _fit(run_key, graph, params, rows.reshape(-1, *shape), labels, num_steps=num_steps)
    content = b"".join(np.asarray(leaf, np.float32).tobytes() for leaf in jax.tree.leaves(params))
    classifier = Classifier(graph, params, 1.0, 0.0, hashlib.sha256(content).hexdigest())
    scale = float(np.sqrt(classifier.features(rows, shape).var(axis=0).sum()))
    test_rows, test_labels = test_set
    classifier = classifier._replace(scale=scale)
    return classifier._replace(
        test_accuracy=float(np.mean(classifier.labels(test_rows, shape) == np.asarray(test_labels)))
    )


class _Network(nnx.Module):
    def __init__(self, shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs):
        height, length, channels = shape
        self.first = nnx.Conv(channels, _WIDTH, (3, 3), strides=(2, 2), rngs=rngs)
        self.second = nnx.Conv(_WIDTH, 2 * _WIDTH, (3, 3), strides=(2, 2), rngs=rngs)
        self.hidden = nnx.Linear(
            -(-height // 4) * -(-length // 4) * 2 * _WIDTH, NUM_FEATURES, rngs=rngs
        )
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
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(
                nnx.merge(graph, params)(batch), batch_labels
            )
        )

    def update(carry, key):
        params, state = carry
        draw_key, shift_key = jax.random.split(key)
        chosen = jax.random.randint(draw_key, (_BATCH,), 0, images.shape[0])
        shifts = jax.random.randint(shift_key, (_BATCH, 2), -most, most + 1)
        batch = jax.vmap(lambda image, shift: jnp.roll(image, shift, axis=(0, 1)))(
            images[chosen], shifts
        )
        updates, state = optimizer.update(
            jax.grad(loss)(params, batch, labels[chosen]), state, params
        )
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = lax.scan(
        update, (params, optimizer.init(params)), jax.random.split(key, num_steps)
    )
    return params


@jax.jit
def _features(graph, params, images):
    return nnx.merge(graph, params).features(images)


@jax.jit
def _logits(graph, params, images):
    return nnx.merge(graph, params)(images)
