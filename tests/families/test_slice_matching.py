"""Slice matching: densities by importance and autodiff, the rate on Gaussians, bad input."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko
from swjko import flows

fit = jax.jit(
    swjko.slice_matching,
    static_argnames=("num_steps", "num_knots", "num_refinements", "standardize"),
)
KEY = jax.random.key(0)


def bent(key, num):
    x = jax.random.normal(key, (num, 2))
    return jnp.stack([2.0 * x[:, 0], x[:, 0] ** 2 + 0.5 * x[:, 1]], axis=1)


@functools.cache
def bent_law(standardize=True):
    with jax.enable_x64(True):
        points = bent(jax.random.key(0), 400)
        return fit(jax.random.key(1), points, num_steps=10, num_knots=8, standardize=standardize)


@pytest.mark.slow
@pytest.mark.parametrize("standardize", [True, False])
def test_the_density_integrates_to_one(standardize):
    with jax.enable_x64(True):
        law = bent_law(standardize)
        # The mean of density over density for draws of a law with heavier tails.
        wide = jax.random.t(jax.random.key(2), 3.0, (40_000, 2))
        reference = jnp.sum(jax.scipy.stats.t.logpdf(wide, 3.0), 1) - jnp.log(9.0)
        points = jnp.asarray([[0.0, 2.0]]) + 3.0 * wide
        density = jax.jit(law.family.log_prob)(law.params, points)
        ratios = np.exp(np.asarray(density - reference))
    error = ratios.std() / np.sqrt(len(ratios))
    assert error < 0.03
    assert abs(ratios.mean() - 1) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("standardize", [True, False])
def test_log_determinants_are_those_of_the_jacobian(standardize):
    with jax.enable_x64(True):
        law = bent_law(standardize)
        z = jax.random.normal(jax.random.key(3), (50, 2))
        push = jax.jit(law.family.push)
        cloud = push(law.params, z)
        jacobians = jax.vmap(jax.jacrev(lambda z: push(law.params, z[None]).points[0]))(z)
        log_det = jnp.linalg.slogdet(jacobians)[1]
        base = jax.scipy.stats.norm.logpdf(z).sum(1)
        np.testing.assert_allclose(cloud.log_density, base - log_det, rtol=1e-9)
        np.testing.assert_allclose(law.log_prob(cloud.points), cloud.log_density, rtol=1e-9)
        back, _ = law.family.inverse(law.params, cloud.points)
        np.testing.assert_allclose(back, z, atol=1e-9)


@pytest.mark.slow
def test_draws_follow_the_law_of_the_points():
    """They are as near to fresh points as an independent sample is, within a factor of two."""
    law, num = bent_law(), 4000
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(4), 4)
        directions = swjko.quasi_directions(keys[0], 32, 2)
        drawn, fresh, other = (
            law.sample(keys[1], num).points,
            bent(keys[2], num),
            bent(keys[3], 400),
        )
        distance = swjko.sliced_wasserstein(drawn, fresh, directions)
        assert float(distance) < 2 * float(swjko.sliced_wasserstein(other, fresh, directions))


@pytest.mark.slow
def test_a_step_shrinks_covariances_of_gaussians_by_its_rate():
    """E |S - I|^2 falls by d / (d + 2) in a step of a random basis if S is near I and traceless."""
    dim, steps, num = 3, 3, 5000
    scales = np.array([1.2, 1.0, 0.8])
    with jax.enable_x64(True):
        points = np.random.default_rng(0).normal(size=(num, dim))
        points -= points.mean(0)
        points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T, bias=True))).T
        points = jnp.asarray(points * scales / np.sqrt(np.mean(scales**2)))

        def errors(key):
            law = swjko.slice_matching(
                key,
                points,
                num_steps=steps,
                step_size=1.0,
                num_knots=100,
                num_refinements=0,
                standardize=False,
            )
            moved, _ = law.family.inverse(law.params, points)
            return jnp.sum((moved.T @ moved / num - jnp.eye(dim)) ** 2)

        found = jax.lax.map(errors, jax.random.split(jax.random.key(1), 30))
    start = np.sum((scales**2 / np.mean(scales**2) - 1) ** 2)
    ratios = np.asarray(found) / start
    error = ratios.std() / np.sqrt(len(ratios))
    assert abs(ratios.mean() - (dim / (dim + 2)) ** steps) < 4 * error + 0.02


def refined(points, num):
    """The basis of the only step."""
    law = fit(jax.random.key(1), points, num_steps=1, num_refinements=num, standardize=False)
    return np.asarray(law.params["steps"][0][0])


@pytest.mark.parametrize("sources", ["uniform", "Laplace", "of both kinds"])
def test_refined_bases_are_the_axes_of_independent_sources(sources):
    rng, num = np.random.default_rng(0), 20_000
    laws = {"uniform": [rng.uniform] * 3, "Laplace": [rng.laplace] * 3}
    laws["of both kinds"] = [rng.uniform, rng.laplace, rng.normal]
    x = np.stack([law(size=num) for law in laws[sources]], axis=1)
    x = (x - x.mean(0)) / x.std(0)
    mixing = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    found = np.abs(refined(jnp.asarray(x @ mixing.T), 30) @ mixing)
    # Each row is one axis, up to its sign and the order.
    np.testing.assert_allclose(np.sort(found, axis=1)[:, 2], 1.0, atol=5e-3)
    np.testing.assert_array_equal(np.sort(np.argmax(found, axis=1)), np.arange(3))


def test_refined_bases_of_a_gaussian_are_its_eigenvectors():
    x = np.random.default_rng(0).normal(size=(20_000, 3)) * np.array([1.5, 1.2, 0.8])
    values, vectors = np.linalg.eigh(np.cov(x.T))
    found = np.abs(refined(jnp.asarray(x), 60) @ vectors)
    # The iteration orders them by the distance of the eigenvalue to one.
    order = np.argsort(-np.abs(values - 1))
    np.testing.assert_allclose(found[np.arange(3), order], 1.0, atol=5e-3)


def test_whole_steps_leave_a_basis_that_has_nothing_more():
    """Two moons look normal along some bases that are not those of their shape."""
    sets = pytest.importorskip("sklearn.datasets")
    points = jnp.asarray(sets.make_moons(3000, noise=0.05, random_state=0)[0])
    keys = jax.random.split(jax.random.key(0), 3)
    gains = []
    for key in keys:
        law = fit(key, points[:2000], num_steps=50, step_size=1.0, held_out=points[2000:])
        gains.append(float(jnp.mean(law.log_prob(points[2000:]))))
    assert min(gains) > -1.0


def test_refined_bases_fit_a_table_better():
    sets = pytest.importorskip("sklearn.datasets")
    rows = sets.load_breast_cancer().data
    rows = jnp.asarray((rows - rows.mean(0)) / rows.std(0))[jax.random.permutation(KEY, len(rows))]
    train, held_out = rows[:400], rows[400:]
    likelihoods = [
        float(jnp.mean(fit(KEY, train, num_steps=50, num_refinements=num).log_prob(held_out)))
        for num in (0, 1)
    ]
    assert likelihoods[1] > likelihoods[0] + 0.3


def test_the_start_is_kept_if_no_step_is_better():
    """Steps towards few points fit their noise; held-out points of another scale show it."""
    points = jax.random.normal(KEY, (40, 2))
    law = fit(KEY, points, num_steps=5, step_size=1.0, num_knots=40, held_out=3.0 * points[:5])
    _, table = law.params["steps"]
    np.testing.assert_array_equal(table.x, table.y)
    np.testing.assert_array_equal(table.log_slopes, 0.0)


@pytest.mark.slow
def test_steps_after_the_largest_held_out_likelihood_are_dropped():
    points, held_out = bent(jax.random.key(0), 60), bent(jax.random.key(5), 200)
    options = {"step_size": 0.5, "num_knots": 20}
    key = jax.random.key(1)
    stopped = fit(key, points, num_steps=12, held_out=held_out, **options)
    likelihoods = []
    basis, table = fit(key, points, num_steps=12, **options).params["steps"]
    for last in range(12):
        kept = jnp.arange(12)[:, None, None] <= last
        steps = (
            basis,
            table._replace(
                y=jnp.where(kept, table.y, table.x),
                log_slopes=jnp.where(kept, table.log_slopes, 0.0),
            ),
        )
        law = swjko.FlowDistribution(stopped.family, stopped.params | {"steps": steps})
        likelihoods.append(float(jnp.mean(law.log_prob(held_out))))
    found = float(jnp.mean(stopped.log_prob(held_out)))
    assert found == pytest.approx(max(likelihoods), abs=1e-4)
    assert np.argmax(likelihoods) < 11


@pytest.mark.slow
def test_it_is_the_base_of_a_flow():
    law, key = bent_law(), jax.random.key(0)
    with jax.enable_x64(True):
        family = flows.coupling(2, num_layers=2, width=8, base=law)
        params = family.init(key)
        points = law.sample(key, 5).points
        # A coupling starts at the identity.
        np.testing.assert_allclose(family.log_prob(params, points), law.log_prob(points), rtol=1e-6)


BAD = {
    "NaN": ({"points": np.full((4, 2), np.nan)}, "points must be finite"),
    "no way": ({"step_size": 0.0}, "step_size must be positive"),
    "more than the way": (
        {"step_size": 1.5},
        "step_size must be at most 1, the whole way; got 1.5",
    ),
    "one knot": ({"num_knots": 1}, "num_knots must be at least 2; got 1"),
    "more knots than points": ({"num_knots": 9}, "num_knots must not exceed the 4 points; got 9"),
    "refinements below none": (
        {"num_refinements": -1},
        "num_refinements must be at least 0; got -1",
    ),
    "no steps": ({"num_steps": 0}, "num_steps must be at least 1"),
    "other dimension": ({"held_out": np.ones((3, 3))}, "points and held_out must have the same"),
}


@pytest.mark.slow_except_first
@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    changes, message = BAD[name]
    good = {"points": np.linspace(0.0, 1.0, 8).reshape(4, 2), "num_steps": 2, "num_knots": 3}
    with pytest.raises(ValueError, match=re.escape(message)):
        swjko.slice_matching(jax.random.key(0), **(good | changes))


@pytest.mark.slow
def test_points_that_coincide_have_a_finite_density():
    points = jnp.asarray(np.random.default_rng(0).integers(0, 3, (60, 2)), float)
    law = fit(jax.random.key(0), points.at[:, 1].set(2.0), num_steps=3, num_knots=8)
    assert np.all(np.isfinite(law.log_prob(points)))


def test_points_may_be_constants_of_a_compiled_program():
    points = jnp.asarray(np.linspace(-1.0, 1.0, 16).reshape(8, 2))

    def fitted(points):
        return swjko.slice_matching(jax.random.key(1), points, num_steps=1, num_knots=3).params

    chex.assert_trees_all_close(
        jax.jit(lambda: fitted(points))(), jax.jit(fitted)(points), rtol=1e-4, atol=1e-4
    )
