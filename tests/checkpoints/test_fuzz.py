"""Seeded mutations of a checkpoint: each is found to be damaged, or is equal to what was saved."""

import copy
import hashlib
import json
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko
from swjko.checkpoints import format as checkpoint_format
from swjko.checkpoints.files import CheckpointError
from swjko.checkpoints.newest import newest_checkpoint
from swjko.checkpoints.single import SingleFile

STEPS = 6
MAGIC = b"swjko checkpoint 1\n"
SEEDS = [pytest.param(s, marks=[pytest.mark.slow] if s >= 15 else []) for s in range(300)]
VALUES = [None, True, -1, 0, 1, 7, 2**31, 10**30, 1.5, float("nan"), "", "6", "float64", "object"]
VALUES += [[], {}, [-1], [0, 10**30], ["float32", [2], None], {"bytes": 1}, "threefry2x32", "é"]


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A complete run with checkpoints after steps 4 and 6, its start, and what it records."""
    directory, key = tmp_path_factory.mktemp("fuzz") / "run", jax.random.key(0)
    scheme = swjko.langevin(jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), jnp.sum, step_size=0.1)
    options = {"progress": False, "chunk_size": 2, "checkpoint_steps": 2, "record": swjko.both}
    swjko.solve(key, scheme, STEPS, checkpoint_dir=directory, **options)
    start = scheme.init(key)
    recorded = jax.eval_shape(lambda: (start, scheme.step(key, start)[1]))
    return directory, start, jax.tree.map(with_steps, recorded)


def with_steps(leaf):
    return jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype)


def flipped_or_cut(content, rng):
    """Flip some bits, cut the end, append bytes, or repeat a part."""
    content = bytearray(content)
    how = rng.integers(4)
    if how == 0:
        for _ in range(rng.integers(1, 9)):
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif how == 1:
        del content[rng.integers(len(content)) :]
    elif how == 2:
        content += rng.bytes(rng.integers(1, 64))
    else:
        begin, end = sorted(rng.integers(len(content), size=2))
        content[begin:begin] = content[begin:end]
    return bytes(content)


def places(tree, path=()):
    """All paths into nested lists and dictionaries."""
    yield path
    items = list(enumerate(tree)) if isinstance(tree, list) else []
    for name, part in tree.items() if isinstance(tree, dict) else items:
        yield from places(part, (*path, name))


def mutated(tree, rng):
    """Replace, remove or double one entry of nested lists and dictionaries."""
    tree = {"root": copy.deepcopy(tree)}
    paths = [path for path in places(tree) if path]
    *way, last = paths[rng.integers(len(paths))]
    parent = tree
    for name in way:
        parent = parent[name]
    how = rng.integers(3)
    if how == 0 or last == "root":
        parent[last] = VALUES[rng.integers(len(VALUES))]
    elif how == 1:
        del parent[last]
    elif isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]))
    else:
        parent[f"{last} "] = parent[last]
    return tree["root"]


def forged(content, rng):
    """Change the headers or the length of the payload, and make the checksum right again."""
    body, start, frames = content[len(MAGIC) + 32 :], 0, []
    while start < len(body):
        text, length = struct.unpack_from("<QQ", body, start)
        middle = start + 16 + text
        frames.append([json.loads(body[start + 16 : middle]), body[middle : middle + length]])
        start = middle + length
    for _ in range(rng.integers(1, 3)):
        index, what = rng.integers(2), rng.integers(6)
        if what < 4:
            frames[index][0] = mutated(frames[index][0], rng)
        elif what == 4:
            frames[1][1] = frames[1][1][: rng.integers(len(frames[1][1]) + 1)]
        else:
            frames.insert(rng.integers(len(frames) + 1), copy.deepcopy(frames[index]))
    body = b"".join(framed(*frame) for frame in frames)
    return MAGIC + hashlib.sha256(body).digest() + body


def framed(header, payload):
    text = json.dumps(header).encode()
    return struct.pack("<QQ", len(text), len(payload)) + text + payload


def assert_same(found, expected):
    assert (found.step, found.history) == (expected.step, expected.history)
    differ = {name for name, _ in found.run.items() ^ expected.run.items()}
    # A resumed run may have another number of steps, and any note of what happened before.
    assert differ <= {"num_steps", "resumed"}
    for one, other in zip(found.leaves, expected.leaves, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", [flipped_or_cut, forged])
def test_a_mutated_checkpoint_is_damaged_or_equal(change, seed, complete, tmp_path):
    directory, start, recorded = complete
    shutil.copytree(directory, tmp_path / "run")
    newest, older = checkpoint_format.checkpoint_paths(tmp_path / "run")
    expected, before = checkpoint_format.load(newest), checkpoint_format.load(older)
    newest.write_bytes(change(newest.read_bytes(), np.random.default_rng(seed)))
    content = newest.read_bytes()
    arguments = (tmp_path / "run", expected.run, start, recorded, SingleFile())
    found, damaged, refusal = None, {}, ""
    try:
        found, damaged, _ = newest_checkpoint(*arguments, resume=True)
    except CheckpointError as error:
        refusal = str(error)
    if found is None:
        # Its fingerprint was changed as well, so nobody can tell whose it is.
        assert change is forged
        assert "holds another run" in refusal
    else:
        assert_same(found, before if damaged else expected)
        assert list(damaged) in ([newest], [])
    assert newest.read_bytes() == content
