"""Certificates: exact numbers of Gaussian steps, verdicts on good and spoilt runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import gaussian_scheme, jitted_run, tiny_scheme

import swjko

NUM_STEPS = 5
jitted_certificate = jax.jit(swjko.certificate, static_argnames=("num_samples", "num_repeats"))


@pytest.fixture(scope="module")
def good_run():
    """A scheme on N(0, I), its start and its states."""
    scheme = gaussian_scheme(
        swjko.gaussian(2, init_mean=2.0, init_scale=2.0), samples=512, projections=32, inner=120
    )
    start = scheme.init(jax.random.key(0))
    _, states = jitted_run(
        jax.random.key(1), scheme, start, num_steps=NUM_STEPS, record=lambda state, info: state
    )
    return scheme, start, states


def certify(scheme, trajectory, **options):
    return jitted_certificate(
        jax.random.key(2), scheme, trajectory, **({"num_samples": 400, "num_repeats": 8} | options)
    )


def test_exact_steps_are_certified_with_their_exact_numbers():
    """Energies, proximities and dissipation of these parameters are known in closed form."""
    scheme = gaussian_scheme(swjko.gaussian(2, init_mean=2.0, init_scale=2.0), projections=64)
    means, scales, h = [2.0], [2.0], 0.2
    for _ in range(3):
        means.append(means[-1] / (1 + h))
        scales.append((scales[-1] + np.sqrt(scales[-1] ** 2 + 4 * (1 + h) * h)) / (2 * (1 + h)))
    means, scales = np.asarray(means), np.asarray(scales)
    params = {
        "mean": jnp.asarray(np.stack([means, means], axis=1), float),
        "log_diagonal": jnp.asarray(np.log(np.stack([scales, scales], axis=1)), float),
        "lower": jnp.zeros((4, 2, 2)),
    }
    found = certify(scheme, params, num_samples=1000, num_repeats=16)
    energy = means**2 + scales**2 - 1 - np.log(2 * np.pi) - 2 * np.log(scales)
    proximity = (np.diff(means) ** 2 + np.diff(scales) ** 2) / 0.2
    exact = (energy[1:], proximity, energy[:-1] - energy[1:] - proximity)
    for estimate, value in zip(
        (found.energy, found.proximity, found.dissipation), exact, strict=True
    ):
        assert np.all(np.abs(estimate.value - value) < 5 * estimate.standard_error)
        assert np.all(estimate.standard_error < 0.1 * np.abs(value) + 0.02)
    np.testing.assert_allclose(found.noise_floor, found.proximity.standard_error)
    assert np.all(found.inner_gap.value < 0.05)
    assert found.passed
    assert "certified: 3 of 3 steps dissipate energy within 2 standard errors" in found.verdict


def test_a_good_run_passes_with_or_without_its_start_and_under_jit(good_run):
    scheme, start, states = good_run
    found = certify(scheme, states, start=start)
    assert found.verdict.startswith("certified: 5 of 5 steps dissipate energy within 2 standard")
    assert float(jnp.max(found.inner_gap.value)) < 0.2
    whole = jax.tree.map(
        lambda one, rest: jnp.concatenate([one[None], rest]), start.params, states.params
    )
    eager = swjko.certificate(jax.random.key(2), scheme, whole, num_samples=400, num_repeats=8)
    np.testing.assert_allclose(
        eager.dissipation.value, found.dissipation.value, rtol=1e-3, atol=1e-4
    )


def test_a_spoilt_step_fails_with_its_reason(good_run):
    scheme, start, states = good_run
    mean = states.params["mean"]
    spoilt = states._replace(params=states.params | {"mean": mean.at[2].add(1.0)})
    found = certify(scheme, spoilt, start=start)
    assert list(np.asarray(found.dissipates[:3])) == [True, True, False]
    assert found.verdict.startswith("not certified: step 3 of 5 raised energy + proximity by ")
    assert "standard errors): lower the learning rate" in found.verdict
    broken = states._replace(params=states.params | {"mean": mean.at[3, 0].set(jnp.nan)})
    assert certify(scheme, broken, start=start).verdict.startswith(
        "not certified: step 4 of 5 is not finite"
    )


def test_an_unfinished_inner_solve_fails_with_its_reason(good_run):
    scheme, start, _ = good_run
    hasty = dataclasses.replace(scheme, num_inner_steps=1)
    _, states = jitted_run(
        jax.random.key(1), hasty, start, num_steps=2, record=lambda state, info: state
    )
    found = certify(hasty, states, start=start)
    assert np.all(found.dissipates)
    assert not np.any(found.solved)
    assert np.all(found.inner_gap.value > 0.5)
    assert found.verdict.startswith("not certified: step 1 of 2 left ")
    assert found.verdict.endswith(
        "of the inner gradient at its start, more than 25 %: raise num_inner_steps"
    )


def test_a_flow_at_rest_is_certified_and_reported_as_such():
    scheme = gaussian_scheme(swjko.gaussian(2), samples=64)
    rest = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), scheme.init(jax.random.key(0)).params)
    found = certify(scheme, rest)
    assert found.verdict.endswith("; 2 moved less than the noise floor")


def test_independent_latents_have_the_floor_of_two_samples():
    """E SW_2^2 between two samples of 500 points from N(0, I) is 0.013."""
    scheme = gaussian_scheme(
        swjko.gaussian(2), samples=500, projections=64, common_latents=False, debias=False
    )
    rest = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), scheme.init(jax.random.key(0)).params)
    found = certify(scheme, rest, num_samples=50, num_repeats=32)
    np.testing.assert_allclose(found.noise_floor, 0.013 / 0.2, rtol=0.15)


@pytest.mark.parametrize(
    ("name", "functional"),
    [("particles", "interaction"), ("grid", "kl_divergence"), ("mlp", "sw_to_target")],
)
def test_other_families(name, functional, key):
    scheme = tiny_scheme(name, functional)
    start = scheme.init(key)
    moved = jax.tree.map(lambda leaf: jnp.stack([leaf + 0.01, leaf + 0.02]), start.params)
    found = certify(scheme, moved, start=start, num_samples=12, num_repeats=4)
    assert found.energy.value.shape == found.inner_gap.value.shape == (2,)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    # Adding a constant to all logits of a grid moves nothing.
    assert np.all(found.proximity.value > 1e-6) == (name != "grid")
    assert "certified" in found.verdict


def test_a_trajectory_of_one_measure_is_refused(good_run):
    scheme, _, states = good_run
    with pytest.raises(ValueError, match=r"at least two measures; got 1.*start=scheme\.init"):
        certify(scheme, jax.tree.map(lambda leaf: leaf[:1], states))
