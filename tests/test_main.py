"""The command line in tiny settings: what it prints, writes, refuses and returns."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from swjko import Cloud, experiments, problems
from swjko.__main__ import main

_TINY = ["--steps", "2", "--inner-steps", "2", "--samples", "16", "--projections", "4", "--no-progress"]


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Nearly all of the time here is compilation, and nothing here is about speed."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """All three problems in one directory: (directory, exit code)."""
    out = tmp_path_factory.mktemp("whole")
    return out, main([*_TINY, "--seed", "3", "--out", str(out)])


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 2)) * [1.0, 50.0] + [3.0, 0.0]
    labels = np.where(features[:, 0] + rng.standard_normal(60) > 3.0, "sick", "well")
    path = tmp_path / "patients.csv"
    rows = [f"{a},{label},{b}" for (a, b), label in zip(features, labels, strict=True)]
    path.write_text("\n".join(["age,state,dose", *rows]) + "\n")
    return path


def test_without_subcommand_all_three_run_and_report(whole_run):
    out, code = whole_run
    assert code == 0
    for name, dim in (("fokker-planck", 2), ("posterior", 31), ("match", 2)):
        report = json.loads((out / name / "report.json").read_text())
        assert (report["problem"], report["dim"], report["result"]) == (name, dim, "OK")
        assert report["config"]["seed"] == 3
        assert report["config"]["samples"] == 16
        assert report["config"]["inner_steps"] == 2
        assert set(report["versions"]) == {"swjko", "jax", "python"}
        assert report["versions"]["jax"] == jax.__version__
        assert report["device"]
        np.testing.assert_allclose(report["history"]["time"], report["config"]["step_size"] * np.array([1, 2]), rtol=1e-5)
        assert all(len(report["history"][field]) == 2 for field in ("energy", "proximity", "objective", "gradient_norm"))
        assert report["error"] == pytest.approx(report["energy_end"]["value"] - report["reference"]["value"])
        for figure in ("clouds", "energy"):
            assert (out / name / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert sorted(path.name for path in (out / name).iterdir()) == ["clouds.png", "energy.png", "report.json"]


def test_divergences_are_reported(whole_run):
    figures = json.loads((whole_run[0] / "fokker-planck" / "report.json").read_text())["figures"]
    for law in ("the stationary law", "the exact SW-JKO step"):
        estimate = figures[f"SymKL against {law}"]
        logarithm = figures[f"log10 SymKL against {law}, or of its standard error where larger"]
        assert logarithm == pytest.approx(np.log10(estimate["value"]), abs=1e-3)


def test_energy_at_the_start_is_that_of_a_standard_normal(whole_run):
    report = json.loads((whole_run[0] / "fokker-planck" / "report.json").read_text())
    problem = problems.gaussian_target(3, 2)
    a, c = (problem.precision, problem.center)
    exact = (np.trace(a) + c @ a @ c - 2 - np.linalg.slogdet(a)[1]) / 2
    # 16 clouds of 16 points: the standard error itself is known to a fifth.
    assert abs(report["energy_start"]["value"] - exact) < 5 * report["energy_start"]["standard_error"]


def test_results_are_not_overwritten_in_silence(whole_run, capsys):
    out, _ = whole_run
    before = (out / "match" / "report.json").stat().st_mtime_ns
    for arguments in ([], ["match"]):
        capsys.readouterr()
        assert main([*arguments, *_TINY, "--out", str(out)]) == 2
        _expect_one_line(capsys, "pass --overwrite, or another --out")
    assert (out / "match" / "report.json").stat().st_mtime_ns == before


def test_overwrite_replaces_and_prints_a_table(whole_run, tmp_path, capsys):
    """With options before the subcommand, and points in one dimension."""
    out, _ = whole_run
    np.save(tmp_path / "x.npy", np.random.default_rng(0).exponential(3.0, (40, 1)) + 100.0)
    assert main([*_TINY, "--seed", "1", "--out", str(out), "--overwrite", "match", "--data", str(tmp_path / "x.npy")]) == 0
    printed = capsys.readouterr().out
    assert "SW_2^2/2 of the held-out points to the target: " in printed
    assert printed.splitlines()[-4].split()[:3] == ["problem", "dim", "steps"]
    assert printed.splitlines()[-3].split()[:3] == ["match", "1", "2"]
    report = json.loads((out / "match" / "report.json").read_text())
    assert (report["dim"], report["config"]["seed"]) == (1, 1)
    assert (report["figures"]["points of the target"], report["figures"]["points held out"]) == (32, 8)
    assert (out / "match" / "clouds.png").read_bytes().startswith(b"\x89PNG")


def test_posterior_of_a_table(table, tmp_path, capsys):
    assert main(["posterior", "--data", str(table), "--label", "state", *_TINY, "--out", str(tmp_path / "runs")]) == 0
    report = json.loads((tmp_path / "runs" / "posterior" / "report.json").read_text())
    assert list(report["figures"]["posterior marginals"]) == ["age", "dose", "log alpha"]
    assert (report["figures"]["rows for training"], report["figures"]["rows held out"]) == (48, 12)
    printed = capsys.readouterr().out
    for shown in ("held-out accuracy:", "held-out log-likelihood:", "log-likelihood of LogisticRegressionCV:", "standard_deviation"):
        assert shown in printed


def test_help_is_shown(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("fokker-planck", "posterior", "match", "--overwrite", "report.json"):
        assert word in shown
    assert main(["match", "--help"]) == 0
    assert "--projections" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fokker-planck", "--dim", "0"], "--dim: must be a whole number from 1"),
        (["fokker-planck", "--steps", "0"], "--steps: must be a whole number"),
        (["match", "--step-size", "-1"], "--step-size: must be a positive number"),
        (["--step-size", "nan"], "--step-size: must be a positive number"),
        (["--samples", "many"], "--samples: must be a whole number"),
        (["--seed", "-1"], "--seed: must be a whole number from 0"),
        (["swim"], "invalid choice: 'swim'"),
        (["posterior", "--wings"], "unrecognized arguments: --wings"),
        (["posterior", "--data", "x.csv"], "--data FILE.csv and --label COLUMN go together"),
        (["posterior", "--data", "missing.csv", "--label", "y"], "missing.csv: cannot be read"),
        (["posterior", "--data", "patients.csv", "--label", "height"], "no column 'height'"),
        (["posterior", "--data", "patients.csv", "--label", "dose"], "two classes"),
        (["posterior", "--data", "patients.csv", "--label", "age"], "column 'age'"),
        (["match", "--data", "patients.csv"], "line 2, column 'state'"),
        (["match", "--data", "missing.npy"], "missing.npy"),
        (["match", "--data", "pickled.npy"], "pickled.npy: not a readable .npy"),
        (["match", "--dim", "65"], "--dim 65 principal components"),
        (["match", "--out", "patients.csv"], "not a writable directory"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(arguments, message, table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("pickled.npy", np.array([{}]), allow_pickle=True)
    assert main([*arguments, "--no-progress"]) == 2
    _expect_one_line(capsys, message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("module", ["matplotlib", "sklearn"])
def test_a_missing_extra_is_named(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["fokker-planck", "--out", str(tmp_path)]) == 2
    _expect_one_line(capsys, f"needs {module}; get them with: pip install 'swjko[cli]'")


def test_a_failed_flow_is_one_line_and_code_1(tmp_path, capsys):
    assert main(["fokker-planck", "--dim", "1", *_TINY[:-1], "--no-progress", "--step-size", "1e-37", "--out", str(tmp_path)]) == 1
    _expect_one_line(capsys, "the flow stopped after step 0")


def test_exact_iterates_minimise_the_step():
    """One iterate in one dimension, where SW_2 is W_2: against a direct minimisation over mean and standard deviation."""
    problem = problems.gaussian_target(5, 1)
    means, covs = problems.exact_sw_jko_flow(problem, 0.7, 1)
    energies = [experiments._gaussian_kl(mean, cov, problem.precision, problem.center) for mean, cov in zip(means, covs, strict=True)]
    a, c = (problem.precision[0, 0], problem.center[0])

    def kl(mean, deviation):
        return (a * deviation**2 + a * (mean - c) ** 2 - 1 - np.log(a * deviation**2)) / 2

    def cost(x):
        return (x[0] ** 2 + (np.exp(x[1]) - 1) ** 2) / 1.4 + kl(x[0], np.exp(x[1]))

    best = scipy.optimize.minimize(cost, [0.0, 0.0], tol=1e-12).x
    np.testing.assert_allclose([means[1, 0], np.sqrt(covs[1, 0, 0])], [best[0], np.exp(best[1])], rtol=1e-5)
    np.testing.assert_allclose(energies, [kl(0.0, 1.0), kl(best[0], np.exp(best[1]))], rtol=1e-5)


def test_evidence_by_importance_sampling(key):
    """The normalising constant of 3 exp(-x'x/2) in the plane is 6 pi, whatever Gaussian the draws come from."""
    points = 1.3 * jax.random.normal(key, (4096, 2))
    log_density = jnp.asarray(scipy.stats.norm(0, 1.3).logpdf(np.asarray(points)).sum(axis=1), float)
    log_evidence, effective = experiments._importance(Cloud(points, None, log_density), lambda x: jnp.log(3.0) - jnp.sum(x**2) / 2)
    assert log_evidence == pytest.approx(np.log(6 * np.pi), abs=0.05)
    assert 0.6 * 4096 < effective < 4096


def test_held_out_scores_average_over_draws():
    """Two draws that disagree: the prediction is the mean of their probabilities."""
    data = problems.Table(np.array([[2.0], [1.0]]), np.array([1.0, -1.0]), ("x",), ("no", "yes"))
    scores = experiments.held_out_scores(np.array([[1.0], [-0.5]]), data)
    sigmoid = scipy.stats.logistic.cdf
    first, second = ((sigmoid(2.0) + sigmoid(-1.0)) / 2, (sigmoid(-1.0) + sigmoid(0.5)) / 2)
    assert scores["held-out log-likelihood"] == pytest.approx((np.log(first) + np.log(second)) / 2)
    assert scores["held-out accuracy"] == np.mean([first > 0.5, second > 0.5])


def test_components_are_principal_and_scaled_by_one_number():
    from sklearn.decomposition import PCA

    points = np.random.default_rng(0).standard_normal((80, 4)) * [1.0, 5.0, 2.0, 0.1] + 7.0
    projected, scale = experiments._standardised_components(points, 2, "points")
    expected = PCA(2).fit_transform(points)
    np.testing.assert_allclose(np.abs(projected * scale), np.abs(expected), rtol=1e-6, atol=1e-9)
    assert np.sqrt(np.mean(projected**2)) == pytest.approx(1.0)


def _expect_one_line(capsys, message: str) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("swjko: error: ")
    assert message in lines[0]
