"""Fingerprints of runs: equal for equal runs, in every process, and different in what differs."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

import swjko
from swjko.checkpoints.fingerprint import describe, differences

SCALE = 2.0


def powered(power):
    def function(data, x):
        return SCALE * jnp.sum(x**power) + jnp.sum(data)

    return swjko.potential(jax.tree_util.Partial(function, jnp.ones(3)))


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return self.scale * jnp.sum(x**2)


@pytest.mark.parametrize(
    ("make", "one", "other", "phrase"),
    [
        (powered, 2, 3, "power: 2 saved, 3 now"),
        (lambda scale: swjko.potential(Scaled(scale)), 1.0, 2.0, "scale: 1.0 saved, 2.0 now"),
        (lambda last: {"a": [jnp.arange(9.0), [last]]}, 1, 2, "a.1: [1] saved, [2] now"),
    ],
)
def test_what_differs_is_named(make, one, other, phrase):
    assert describe(thing=make(one)) == describe(thing=make(one))
    assert not [value for value in describe(thing=make(one)).values() if " at 0x" in value]
    phrases = differences(describe(thing=make(one)), describe(thing=make(other)))
    assert any(phrase in text for text in phrases)


def test_globals_of_a_function_count(monkeypatch):
    before = describe(functional=powered(2))
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    phrases = differences(before, describe(functional=powered(2)))
    assert any("SCALE: 2.0 saved, 3.0 now" in text for text in phrases)


def test_many_differences_are_counted():
    phrases = differences({str(i): "a" for i in range(30)}, {str(i): "b" for i in range(30)})
    assert phrases[0] == "0: a saved, b now"
    assert phrases[-1] == "and 22 more"


@pytest.mark.slow
def test_fingerprints_agree_between_processes():
    code = """
        import jax, json, optax, swjko, jax.numpy as jnp
        from swjko import flows
        from swjko.checkpoints.fingerprint import describe
        schedule = optax.cosine_decay_schedule(1e-2, 5)
        scheme = swjko.sw_jko(
            flows.coupling(2, num_layers=2, width=4), swjko.kl_divergence(lambda x: -jnp.sum(x**2)),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
            step_size=0.1, num_inner_steps=2, num_samples=8, num_projections=3)
        scheme = swjko.adaptive(scheme, min_step_size=0.01, max_step_size=1.0)
        print(json.dumps(describe(scheme=scheme, record=swjko.both, key=jax.random.key(3))))
    """

    def in_a_process(seed):
        environment = {**os.environ, "XLA_FLAGS": "", "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return json.loads(subprocess.check_output(command, env=environment, timeout=120))

    first = in_a_process("1")
    assert differences(first, in_a_process("2")) == []
    assert len(first) > 30
