"""Targets of the samplers' benchmark against SciPy and quadrature; the data that people have."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from benchmarks.__main__ import main
from benchmarks.sampling import benchmark, posterior_targets, targets
from benchmarks.sampling.target import in_units_of_the_start
from benchmarks.user_data.samples import SAMPLES
from benchmarks.user_data.tables import TABLES, rng_of


@pytest.mark.parametrize("name", ["8 modes", "8 peaky", "mustache"])
def test_densities_of_the_plane_have_mass_one(name):
    target = targets.make(name, None)
    side = np.linspace(-6.0, 6.0, 401)
    high = np.linspace(-6.0, 300.0, 10_201) if name == "mustache" else side
    points = np.stack(np.meshgrid(side, high), axis=-1).reshape(-1, 2)
    density = np.exp(np.asarray(jax.jit(jax.vmap(target.log_prob))(jnp.asarray(points, float))))
    assert density.sum() * (side[1] - side[0]) * (high[1] - high[0]) == pytest.approx(1, abs=2e-3)


def test_log_z_of_many_well_is_that_of_its_pairs():
    target = targets.make("many-well 8", None)
    side = np.linspace(-4.0, 4.0, 8001)
    well = np.exp(-(side**4) + 6 * side**2 + side / 2).sum() * (side[1] - side[0])
    exact = 4 * (np.log(well) + 0.5 * np.log(2 * np.pi))
    assert target.log_evidence == pytest.approx(exact, abs=1e-4)
    points = target.draw(np.random.default_rng(0), 20_000)
    share = (np.exp(-(side**4) + 6 * side**2 + side / 2) * (side > 0)).sum() / (
        np.exp(-(side**4) + 6 * side**2 + side / 2).sum()
    )
    assert np.mean(points[:, 0] > 0) == pytest.approx(share, abs=0.02)


def test_densities_against_scipy():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x = rng.normal(size=10)
        funnel = scipy.stats.norm(0, 3).logpdf(x[0])
        funnel += scipy.stats.norm(0, np.exp(x[0] / 2)).logpdf(x[1:]).sum()
        found = targets.make("funnel", None).log_prob(jnp.asarray(x))
        assert float(found) == pytest.approx(funnel, rel=1e-10)
        tau = np.exp(x[1])
        schools = scipy.stats.norm(0, 5).logpdf(x[0]) + scipy.stats.halfcauchy(0, 5).logpdf(tau)
        schools += x[1] + scipy.stats.norm.logpdf(x[2:]).sum()
        effects, errors = np.array([28, 8, -3, 7, -1, 1, 18, 12]), [15, 10, 16, 11, 9, 11, 10, 18]
        schools += scipy.stats.norm(x[0] + tau * x[2:], errors).logpdf(effects).sum()
        found = targets.make("eight schools", None).log_prob(jnp.asarray(x))
        assert float(found) == pytest.approx(schools, rel=1e-10)


def test_seeds_and_brownian_against_scipy():
    with jax.enable_x64(True):
        x = 0.3 * np.random.default_rng(2).normal(size=32)
        counts = np.array([pair.split("/") for pair in posterior_targets._SEEDS.split()], int)
        x1, x2 = np.arange(21) >= 11, np.ones(21)
        x2[[0, 1, 2, 3, 4, 11, 12, 13, 14, 15]] = 0
        logits = x[1] + x[2] * x1 + x[3] * x2 + x[4] * x1 * x2 + x[5:26]
        tau = np.exp(x[0])
        seeds = scipy.stats.gamma(0.01, scale=100).logpdf(tau) + x[0]
        seeds += scipy.stats.norm(0, 10).logpdf(x[1:5]).sum()
        seeds += scipy.stats.norm(0, tau**-0.5).logpdf(x[5:26]).sum()
        law = scipy.stats.binom(counts[:, 1], scipy.special.expit(logits))
        seeds += law.logpmf(counts[:, 0]).sum()
        found = targets.make("Seeds", None).log_prob(jnp.asarray(x[:26]))
        assert float(found) == pytest.approx(seeds, rel=1e-9)
        scales, path = np.log1p(np.exp(x[:2])), x[2:]
        brownian = scipy.stats.lognorm(2).logpdf(scales).sum()
        brownian += np.log(scipy.special.expit(x[:2])).sum()
        brownian += scipy.stats.norm(0, scales[0]).logpdf(np.diff(path, prepend=0)).sum()
        seen = np.concatenate(posterior_targets._OBSERVED)
        brownian += (
            scipy.stats.norm(path[[*range(10), *range(20, 30)]], scales[1]).logpdf(seen).sum()
        )
        found = targets.make("Brownian", None).log_prob(jnp.asarray(x))
        assert float(found) == pytest.approx(brownian, rel=1e-9)


def test_pines_against_scipy(tmp_path):
    rng = np.random.default_rng(3)
    points = rng.random((30, 2))
    rows = [f'"{at}",{x},{y}' for at, (x, y) in enumerate(points)]
    (tmp_path / "pines_126.csv").write_text("\n".join(['"","data_x","data_y"', *rows]))
    with jax.enable_x64(True):
        target = targets.make("LGCP", tmp_path)
        z = 0.3 * rng.normal(size=1600)
        found = float(target.log_prob(jnp.asarray(z)))
    at = np.stack(np.divmod(np.arange(1600), 40), axis=1)
    cov = 1.91 * np.exp(-np.linalg.norm(at[:, None] - at, axis=2) / (40 / 33))
    factor, mean = np.linalg.cholesky(cov), np.log(30) - 1.91 / 2
    x = mean + factor @ z
    exact = scipy.stats.multivariate_normal(np.full(1600, mean), cov).logpdf(x)
    exact += np.log(np.diag(factor)).sum()
    cell = (40 * points).astype(int) @ [40, 1]
    exact += x[cell].sum() - np.exp(x).sum() / 1600
    assert found == pytest.approx(exact, rel=1e-9)


def test_credit_with_and_without_its_prior(tmp_path):
    rng = np.random.default_rng(4)
    table = np.c_[rng.integers(1, 9, (50, 24)), rng.integers(1, 3, 50)]
    np.savetxt(tmp_path / "german.data-numeric", table)
    with jax.enable_x64(True):
        w = 0.1 * rng.normal(size=25)
        both = [
            float(targets.make(name, tmp_path).log_prob(jnp.asarray(w)))
            for name in ("Credit", "Credit, no prior")
        ]
    logits = w[0] + table[:, :-1] / table[:, :-1].std(axis=0) @ w[1:]
    likelihood = scipy.stats.bernoulli(scipy.special.expit(logits)).logpmf(table[:, -1] == 1).sum()
    assert both[1] == pytest.approx(likelihood, rel=1e-9)
    assert both[0] - both[1] == pytest.approx(scipy.stats.norm(0, 10).logpdf(w).sum(), rel=1e-9)


def test_units_of_the_start_keep_log_z():
    plain = targets.make("MoG-40", None)
    target = in_units_of_the_start(plain)
    z = jnp.array([0.3, -0.2])
    expected = plain.log_prob(25.0 * z) + 2 * np.log(25.0)
    assert float(target.log_prob(z)) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(25 * target.centers, plain.centers)


@pytest.mark.parametrize("dim", [2, 5])
def test_mean_distances_against_numpy(dim, monkeypatch):
    monkeypatch.setattr(benchmark, "_BLOCK", 4)
    x, y = np.random.default_rng(0).normal(size=(2, 8, dim)).astype(np.float32)
    exact = np.linalg.norm(x[:, None] - y[None], axis=2).mean()
    assert benchmark._mean_distance(x, y) == pytest.approx(exact, rel=1e-5)


def test_wrong_answers_count_as_told_or_silent():
    target = targets.make("8 modes", None)
    sound = {
        "log_evidence": 0.0, "log_evidence_error": 0.0, "modes": 8, "pareto_k": 0.1,
        "weights_usable": True, "misses_mass": False,
        "effective_fraction": 0.9, "exponent": 1.0, "result": "OK", "seconds": 1.0,
    }  # fmt: skip
    lost, doubtful = sound | {"modes": 7}, sound | {"modes": 7, "weights_usable": False}
    row = benchmark._row("8 modes", target, "a", [dict(sound), lost, doubtful])
    assert (row["wrong"], row["silent"], row["modes"]) == (2, 1, 7)
    differing = [sound | {"log_evidence": 1.0, "log_evidence_error": 1.0}, dict(sound)]
    assert benchmark._row("8 modes", target, "a", differing)["silent"] == 0


def test_the_better_of_both_has_the_larger_log_z_or_nearby_the_larger_elbo():
    one = {"method": "a", "log_evidence": 0.0, "seconds": 3.0, "compile_seconds": 1.0}
    one |= {"elbo": -0.9, "weights_usable": True}
    other = one | {"method": "b", "log_evidence": -0.5, "elbo": -0.1}
    found = benchmark._better(other, one)
    assert (found["chosen"], found["seconds"], found["disagreement"]) == ("a", 6.0, 0.5)
    near = other | {"log_evidence": -0.05}
    assert benchmark._better(one, near)["chosen"] == "b"
    assert benchmark._better(one, near | {"weights_usable": False})["chosen"] == "a"
    assert benchmark._better(one, near | {"elbo": float("nan")})["chosen"] == "a"
    assert benchmark._better(one, other | {"log_evidence": float("nan")})["chosen"] == "a"


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_columns_and_two_classes(name):
    columns, labels = TABLES[name].draw(rng_of("test", name), 60)
    assert {len(column) for column in columns.values()} == {60}
    assert set(np.unique(labels)) == {False, True}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_points(name):
    points = SAMPLES[name].draw(np.random.default_rng(0), 30)
    assert points.shape[0] == 30
    assert np.all(np.isfinite(points))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sampling", "user_data"])
def test_quick_runs_write_json_and_figure(name, tmp_path):
    # blackjax promotes ranks.
    with jax.numpy_rank_promotion("allow"):
        assert main([name, "--quick", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    assert (tmp_path / f"{name}.png").stat().st_size > 0
