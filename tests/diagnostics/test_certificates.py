"""Certificates: exact numbers of Gaussian steps, verdicts on good and spoilt runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import gaussian_scheme, jitted_run, tiny_scheme
from scipy import stats

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
    assert found.verdict.startswith("certified: 3 of 3 steps dissipate energy, at a false-alarm ")
    np.testing.assert_allclose(found.decrease.value, energy[:-1] - energy[1:], atol=0.05)
    assert found.still_falls
    assert "; energy still falls by 100 % of its drop in the last 3 steps: " in found.verdict
    assert found.verdict.endswith("; this judges the steps, not the fit")


@pytest.mark.slow
def test_the_verdict_on_the_fit_stands_beside_that_on_the_steps(good_run):
    """The steps of a flow that is stopped early are right, and its measure is not the target."""
    scheme, start, states = good_run
    target = jax.tree_util.Partial(lambda x: -0.5 * jnp.sum(x**2))
    found = certify(scheme, states, start=start, target_log_prob=target, num_samples=1000)
    assert found.passed
    error = found.fit.log_evidence - np.log(2 * np.pi)
    assert abs(error) < 5 * found.fit.standard_error + 1e-3
    energy, noise = (part[-1] for part in found.energy)
    assert abs(found.fit.elbo.value + energy) < 5 * (noise + found.fit.elbo.standard_error)
    gap = found.fit.log_evidence - found.fit.elbo.value
    assert gap > 0.1
    assert f"this judges the steps, not the fit. Fit: log Z = {found.fit.log_evidence:.5g} +- " in (
        found.verdict
    )
    assert f"KL above its minimum by {gap:.2g}; " in found.verdict
    assert found.verdict.endswith(found.fit.verdict)


@pytest.mark.slow
def test_a_good_run_passes_with_or_without_its_start_and_under_jit(good_run):
    scheme, start, states = good_run
    found = certify(scheme, states, start=start)
    assert found.verdict.startswith("certified: 5 of 5 steps dissipate energy, at a false-alarm ")
    assert " level of 2.5 %; inner gradient fell to " in found.verdict
    assert float(jnp.max(found.inner_gap.value)) < 0.2
    whole = jax.tree.map(
        lambda one, rest: jnp.concatenate([one[None], rest]), start.params, states.params
    )
    eager = swjko.certificate(jax.random.key(2), scheme, whole, num_samples=400, num_repeats=8)
    np.testing.assert_allclose(
        eager.dissipation.value, found.dissipation.value, rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
def test_a_spoilt_step_fails_with_its_reason(good_run):
    scheme, start, states = good_run
    mean = states.params["mean"]
    spoilt = states._replace(params=states.params | {"mean": mean.at[2].add(1.0)})
    found = certify(scheme, spoilt, start=start)
    assert list(np.asarray(found.dissipates[:3])) == [True, True, False]
    assert found.verdict.startswith("not certified: step 3 of 5 raised energy + proximity by ")
    share = -100 * found.dissipation.value[2] / jnp.sum(found.decrease.value)
    assert f", {share:.2g} % of the whole drop of energy): lower the learning rate" in found.verdict
    broken = states._replace(params=states.params | {"mean": mean.at[3, 0].set(jnp.nan)})
    assert certify(scheme, broken, start=start).verdict.startswith(
        "not certified: step 4 of 5 is not finite"
    )


@pytest.mark.slow
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
    assert (
        "of the inner gradient at its start, more than 25 %: raise num_inner_steps; energy still "
        "falls by " in found.verdict
    )
    assert ": take more steps; " in found.verdict


@pytest.mark.slow
def test_a_flow_at_rest_is_certified_and_reported_as_such():
    scheme = gaussian_scheme(swjko.gaussian(2), samples=64)
    rest = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), scheme.init(jax.random.key(0)).params)
    found = certify(scheme, rest)
    assert not found.still_falls
    assert found.verdict.endswith(
        "; 2 moved less than the noise floor; energy no longer falls beyond noise; this judges the "
        "steps, not the fit"
    )


@pytest.mark.slow
def test_independent_latents_have_the_floor_of_two_samples():
    """E SW_2^2 between two samples of 500 points from N(0, I) is 0.013."""
    scheme = gaussian_scheme(
        swjko.gaussian(2), samples=500, projections=64, common_latents=False, debias=False
    )
    rest = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), scheme.init(jax.random.key(0)).params)
    found = certify(scheme, rest, num_samples=50, num_repeats=32)
    np.testing.assert_allclose(found.noise_floor, 0.013 / 0.2, rtol=0.15)


def synthetic(values, gaps=0.0, quantile=2.0):
    """A certificate of draws of the dissipation and of the gap, [repeats k], without moves."""

    def mean(draws):
        draws = jnp.asarray(draws, float)
        error = jnp.std(draws, axis=0, ddof=1) / np.sqrt(len(draws))
        return swjko.types.Estimate(jnp.mean(draws, axis=0), error)

    dissipation = mean(values)
    zeros = jnp.zeros_like(dissipation.value)
    none = swjko.types.Estimate(zeros, zeros)
    gap = mean(gaps + jnp.zeros_like(jnp.asarray(values, float)))
    tolerance, number = jnp.asarray(0.25, float), jnp.asarray(quantile, float)
    return swjko.Certificate(none, none, zeros, dissipation, gap, tolerance, number)


@pytest.mark.slow
def test_the_number_of_standard_errors_is_the_quantile_of_all_tests(good_run):
    scheme, start, states = good_run
    for repeats in (2, 8):
        found = certify(scheme, states, start=start, num_samples=20, num_repeats=repeats)
        expected = stats.t.isf(0.025 / (2 * NUM_STEPS), repeats - 1)
        np.testing.assert_allclose(found.num_standard_errors, expected, rtol=1e-5)


@pytest.mark.parametrize(("steps", "repeats"), [(30, 16), (5, 4)])
def test_runs_without_fault_are_refused_no_more_often_than_stated(steps, repeats):
    """Every step has dissipation 0 and the largest gap that passes; both are the worst case."""
    draws = np.random.default_rng(0).normal(size=(2, 4000, repeats, steps))
    quantile = stats.t.isf(0.025 / (2 * steps), repeats - 1)
    refused = jax.vmap(
        lambda values, gaps: (
            ~jnp.all((found := synthetic(values, gaps, quantile)).dissipates & found.solved)
        )
    )(draws[0], 0.25 + 0.1 * draws[1])
    # 2.5 % at most, within 4 standard errors of a frequency; little less, or the test has no power.
    error = np.sqrt(0.025 * 0.975 / 4000)
    assert 0.025 - 5 * error < np.mean(refused) < 0.025 + 4 * error
    assert np.mean(refused) < 0.05


@pytest.mark.parametrize(
    ("falls", "expected"),
    [
        ([10.0, 1.0, 0.5, 0.3, 0.2], True),
        ([10.0, 1.0, 0.0, 0.0, 0.0], False),
        ([10.0, 1.0, 0.03, 0.03, 0.03], False),
        ([-1.0, -1.0, -1.0, -1.0], False),
        ([1.0], True),
        ([1.0] * 36 + [0.0] * 4, False),
        ([1.0] * 36 + [0.4] * 4, True),
    ],
)
def test_energy_still_falls_beyond_one_percent_of_its_drop(falls, expected):
    found = synthetic([falls, falls])
    assert bool(found.still_falls) == expected
    assert ("; energy still falls by " in found.verdict) == expected


def test_a_fall_within_noise_is_none():
    noise = np.random.default_rng(1).normal(size=(8, 5))
    noise -= noise.mean(axis=0)
    assert not synthetic(0.1 + noise).still_falls
    assert synthetic(2.0 + noise).still_falls


def test_a_small_violation_in_a_falling_run_asks_for_more_steps_only():
    found = synthetic([[10.0, -0.05, 5.0, 5.0]] * 2)
    assert found.verdict == (
        "not certified: step 2 of 4 raised energy + proximity by 0.05 (beyond rounding, 0.25 % of "
        "the whole drop of energy); energy still falls by 50 % of its drop in the last 3 steps: "
        "take more steps; this judges the steps, not the fit"
    )
    level = synthetic([[10.0, -0.05, 0.0, 0.0, 0.0]] * 2).verdict
    assert "0.5 % of the whole drop of energy): lower the learning rate" in level


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_trajectory_of_one_measure_is_refused(good_run):
    scheme, _, states = good_run
    with pytest.raises(ValueError, match=r"at least two measures; got 1.*start=scheme\.init"):
        certify(scheme, jax.tree.map(lambda leaf: leaf[:1], states))
