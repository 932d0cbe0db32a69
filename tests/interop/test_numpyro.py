"""NumPyro models as targets: densities, draws by name, and models that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from helpers import constant_bytes

import swjko

numpyro = pytest.importorskip("numpyro", reason="numpyro is in the extra interop")
dist = pytest.importorskip("numpyro.distributions")
constraints = dist.constraints

SIGMA = np.array([15.0, 10, 16, 11, 9, 11, 10, 18], np.float32)
EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12], np.float32)


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(sigma)):
        z = numpyro.sample("z", dist.Normal(0, 1))
    theta = numpyro.deterministic("theta", mu + tau * z)
    numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def exact_log_prob(mu, log_tau, z):
    tau = np.exp(log_tau)
    total = scipy.stats.norm.logpdf(mu, 0, 5) + scipy.stats.norm.logpdf(z).sum()
    total += scipy.stats.halfcauchy.logpdf(tau, 0, 5) + log_tau
    return total + scipy.stats.norm.logpdf(EFFECTS, mu + tau * z, SIGMA).sum()


def test_eight_schools_against_scipy():
    target = swjko.interop.from_numpyro(eight_schools, SIGMA, y=EFFECTS)
    assert target.dim == 10
    assert target.names[:3] == ("mu", "tau", "z[0]")
    points = jax.random.normal(jax.random.key(0), (4, 10))
    expected = [exact_log_prob(x[0], x[1], x[2:]) for x in points]
    np.testing.assert_allclose(jax.vmap(target.log_prob)(points), expected, rtol=1e-5)
    draws = target.constrain(points, deterministic=True)
    np.testing.assert_allclose(draws["tau"], jnp.exp(points[:, 1]), rtol=1e-5)
    theta = points[:, :1] + jnp.exp(points[:, 1:2]) * points[:, 2:]
    np.testing.assert_allclose(draws["theta"], theta, rtol=1e-4, atol=1e-5)
    assert set(target.constrain(points)) == {"mu", "tau", "z"}
    one = jax.tree.map(lambda leaf: leaf[2], target.constrain(points))
    np.testing.assert_allclose(target.ravel(one), points[2], rtol=1e-5, atol=1e-6)


def test_data_of_a_model_are_leaves():
    traces = []

    def model(x, scale, y=None):
        traces.append(0)
        w = numpyro.sample("w", dist.Normal(0, scale))
        numpyro.sample("y", dist.Normal(w * x, 1.0), obs=y)

    x = np.linspace(0.0, 1.0, 2000)
    one, other = (swjko.interop.from_numpyro(model, x, 2, y=a * x) for a in (1.0, 2.0))
    value = jax.jit(lambda target, w: target.log_prob(w))
    made = len(traces)
    for target, slope in ((one, 1.0), (other, 2.0)):
        exact = scipy.stats.norm.logpdf(slope * x, 0.5 * x).sum()
        exact += scipy.stats.norm.logpdf(0.5, 0, 2)
        np.testing.assert_allclose(value(target, jnp.full(1, 0.5)), exact, rtol=1e-5)
    assert len(traces) == made + 1
    assert max(constant_bytes(value, one, jnp.zeros(1)), default=0) < 1000


def bounded_supports():
    rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    numpyro.sample("share", dist.Beta(2.0, 3.0))
    numpyro.sample("below", dist.Uniform(0.0, rate))  # a support that depends on a parameter
    numpyro.sample("weights", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))


def test_bounds_are_those_of_numpyro():
    target = swjko.interop.from_numpyro(bounded_supports)
    assert target.dim == 5
    point = jnp.array([0.3, -0.7, 0.4, 0.2, -1.1])  # below, rate, share, weights
    found = target.unravel(point)
    assert found["weights"].shape == (3,)
    assert 0 < found["below"] < found["rate"]
    free = jnp.array([0, 1, 2, 3, 4])

    def of(point):
        values = target.unravel(point)
        return jnp.concatenate(
            [jnp.stack([values[k] for k in ("below", "rate", "share")]), values["weights"][:2]]
        )

    jacobian = np.asarray(jax.jacobian(of)(point))[:, free]
    exact = scipy.stats.gamma.logpdf(found["rate"], 3, scale=0.5) - np.log(found["rate"])
    exact += scipy.stats.beta.logpdf(found["share"], 2, 3)
    weights = np.asarray(found["weights"], float)
    exact += scipy.stats.dirichlet.logpdf(weights / weights.sum(), [1, 2, 3])
    exact += np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(target.log_prob(point), exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("log_prob", "constraint", "position", "mass"),
    [
        # The density of Dirichlet(2, 3, 4), and that of two independent normals, of which half
        # of the mass is ordered.
        (
            lambda p: jnp.sum(jnp.array([1.0, 2.0, 3.0]) * jnp.log(p)) + np.log(3360.0),
            lambda: constraints.simplex,
            [0.2, 0.3, 0.5],
            1.0,
        ),
        (
            lambda x: jnp.sum(jax.scipy.stats.norm.logpdf(x)),
            lambda: constraints.ordered_vector,
            [0.0, 1.0],
            0.5,
        ),
        (
            lambda x: jnp.sum(jax.scipy.stats.expon.logpdf(x)),
            lambda: dist.transforms.SoftplusTransform(),
            [1.0, 2.0],
            1.0,
        ),
    ],
)
def test_masses_of_bounded_densities(log_prob, constraint, position, mass):
    target = swjko.raveled(swjko.bounded(log_prob, constraint()), jnp.asarray(position))
    assert target.dim == 2
    grid = np.linspace(-16.0, 16.0, 641)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    total = jnp.sum(jnp.exp(jax.vmap(target.log_prob)(points))) * (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(total, mass, rtol=2e-3)


def discrete():
    numpyro.sample("k", dist.Categorical(jnp.ones(3) / 3))


def observed_only(y):
    numpyro.sample("y", dist.Normal(0, 1), obs=y)


def degenerate():
    numpyro.sample("x", dist.Delta(1.0))


def subsampled(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", 10, subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(mu, 1), obs=y[rows])


def sized_by_data(y):
    numpyro.sample("w", dist.Normal(0, 1).expand([int(y.max())]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: swjko.interop.from_numpyro(discrete), "discrete site 'k'. Sum it out"),
        (lambda: swjko.interop.from_numpyro(observed_only, EFFECTS), "must have a parameter"),
        (lambda: swjko.interop.from_numpyro(degenerate), "must have a density at each site; got a"),
        (lambda: swjko.interop.from_numpyro(subsampled, jnp.zeros(10)), "in the plate 'rows'"),
        (lambda: swjko.interop.from_numpyro(sized_by_data, EFFECTS), "must not read array argum"),
        (
            lambda: swjko.interop.from_numpyro(eight_schools, SIGMA, y=EFFECTS * jnp.nan),
            "model` must be finite at the start; got (nan|-inf). Pass data",
        ),
        (lambda: swjko.interop.from_numpyro(3), "model must be a function"),
        (lambda: swjko.interop.from_numpyro(eight_schools, {1, 2}), "args` must hold arrays and"),
    ],
)
def test_models_that_are_refused(call, message, as_users_see_it):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_numpyro_that_is_absent_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numpyro", None)
    with pytest.raises(ImportError, match=r'pip install "swjko\[interop\]"'):
        swjko.interop.from_numpyro(eight_schools, SIGMA, y=EFFECTS)
