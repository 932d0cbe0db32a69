"""Posteriors of NumPyro models against NUTS: errors of means and deviations, and verdicts.

``pytest -m slow -s`` prints the figures.
"""

import inspect
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import swjko
from swjko import flows

numpyro = pytest.importorskip("numpyro", reason="numpyro is in the extra interop")
dist = pytest.importorskip("numpyro.distributions")
SIGMA = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EFFECTS = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
GROUPS = 12
pytestmark = pytest.mark.slow


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def centred_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def regression(x, group, y=None):
    intercept = numpyro.sample("intercept", dist.Normal(0, 5))
    slope = numpyro.sample("slope", dist.Normal(0, 5))
    spread = numpyro.sample("spread", dist.HalfNormal(2))
    noise = numpyro.sample("noise", dist.HalfNormal(2))
    with numpyro.plate("groups", GROUPS):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
    mean = intercept + spread * offset[group] + slope * x
    numpyro.sample("y", dist.Normal(mean, noise), obs=y)


def rows():
    rng = np.random.default_rng(0)
    group, x = rng.integers(0, GROUPS, 150), rng.normal(size=150)
    y = 1.0 + 0.8 * rng.normal(size=GROUPS)[group] + 2.0 * x + 0.7 * rng.normal(size=150)
    return jnp.asarray(x, float), jnp.asarray(group), jnp.asarray(y, float)


def posterior(target):  # what a user writes, after the model
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 200))
    family, energy = flows.coupling(target.dim), swjko.kl_divergence(target.log_prob)
    scheme = swjko.sw_jko(family, energy, optimizer, step_size=0.5, num_inner_steps=200,
                          num_samples=256, num_projections=32)  # fmt: skip
    solution = swjko.solve(jax.random.key(0), scheme, num_steps=10, progress=False)
    weigh = jax.jit(swjko.importance, static_argnames="num_samples")
    found = weigh(jax.random.key(1), solution.distribution, target.log_prob, num_samples=40_000)
    return found, target.constrain(found.cloud.points)


def nuts(model, *args, y):
    kernel = numpyro.infer.NUTS(model, target_accept_prob=0.95)
    chains = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=1000, num_samples=10_000, **chains)
    mcmc.run(jax.random.key(3), *args, y=y)
    return mcmc.get_samples()


def errors(draws, weights, reference):
    """Largest error of a mean in deviations, and the ratios of deviations, over all numbers."""
    names = sorted(set(draws) & set(reference))
    one, other = (
        np.concatenate([np.asarray(law[name]).reshape(40_000, -1) for name in names], axis=1)
        for law in (draws, reference)
    )
    mean, weights = np.asarray(weights) @ one, np.asarray(weights)
    error = np.max(np.abs(mean - other.mean(axis=0)) / other.std(axis=0))
    ratios = np.sqrt(weights @ (one - mean) ** 2) / other.std(axis=0)
    return error, ratios.min(), ratios.max()


@pytest.mark.parametrize("name", ["eight_schools", "regression"])
def test_means_and_deviations_are_those_of_nuts(name):
    args, y = ((SIGMA,), EFFECTS) if name == "eight_schools" else (rows()[:2], rows()[2])
    model = globals()[name]
    target = swjko.interop.from_numpyro(model, *args, y=y)
    target = target.whitened(swjko.laplace(target.log_prob, target.start))
    found, draws = posterior(target)
    error, low, high = errors(draws, found.cloud.weights, nuts(model, *args, y=y))
    print(f"\n{name}: error {error:.3f} sd, ratios {low:.3f} to {high:.3f}. {found.verdict}")
    if name == "eight_schools":  # log Z by quadrature over log tau
        np.testing.assert_allclose(found.log_evidence, -31.31135, atol=0.03)
    assert found.weights_usable
    assert error < 0.03
    assert 0.97 < low <= high < 1.03
    assert len(inspect.getsource(posterior).splitlines()) + 2 <= 12


def test_the_centred_model_is_refused_or_has_an_honest_verdict():
    target = swjko.interop.from_numpyro(centred_schools, SIGMA, y=EFFECTS)
    with pytest.raises(ValueError, match="log_prob` must"):
        swjko.laplace(target.log_prob, target.start)
    found, draws = posterior(target)
    error, low, high = errors(draws, found.cloud.weights, nuts(eight_schools, SIGMA, y=EFFECTS))
    print(f"\ncentred: error {error:.3f} sd, ratios {low:.3f} to {high:.3f}. {found.verdict}")
    assert not found.weights_usable or (error < 0.1 and 0.85 < low <= high < 1.15)


def test_seconds_from_import_to_the_first_draw():
    code = inspect.getsource(eight_schools) + inspect.getsource(posterior)
    program = f"""
import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax, swjko
from swjko import flows
{code}
sigma = jnp.array({SIGMA.tolist()})
target = swjko.interop.from_numpyro(eight_schools, sigma, y=jnp.array({EFFECTS.tolist()}))
target = target.whitened(swjko.laplace(target.log_prob, target.start))
found, draws = posterior(target)
print(draws["mu"].shape)
"""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    print(f"\n{time.perf_counter() - began:.1f} s from import to the first draws")
    assert done.stdout.strip() == "(40000,)", done.stderr
