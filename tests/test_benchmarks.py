"""The benchmarks in tiny settings: their references against POT and finite differences, their peers against each other, what they write."""

import json

import jax
import numpy as np
import ot
import pytest

from benchmarks import directions, fokker_planck, kernel
from benchmarks.__main__ import main

_TINY = kernel.Case(24, 24, 3, 8, at_least={"jnp.sort": 1e-9}, ambition={"jnp.sort": 1e9})
_CASES = [_TINY, kernel.Case(24, 36, 3, 8), kernel.Case(24, 30, 3, 8, weighted=True)]


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Nearly all of the time here is compilation, and nothing here is about speed."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def _promotion_allowed():
    """The peers broadcast as they please."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_reference_is_pot_and_its_gradient_the_central_difference(case):
    inputs = kernel.Inputs(*(None if array is None else array.astype(np.float64) for array in kernel.make_inputs(case)))
    if case.weighted:
        inputs = inputs._replace(x_weights=inputs.x_weights / inputs.x_weights.sum(), y_weights=inputs.y_weights / inputs.y_weights.sum())
    value, gradient = kernel.reference(inputs)

    def pot(x):
        return ot.sliced_wasserstein_distance(x, inputs.y, inputs.x_weights, inputs.y_weights, projections=inputs.directions.T) ** 2

    assert value == pytest.approx(pot(inputs.x), rel=1e-12)
    step = 1e-6 * np.random.default_rng(1).standard_normal(inputs.x.shape)
    difference = pot(inputs.x + step) - pot(inputs.x - step)
    assert difference == pytest.approx(2 * np.sum(gradient * step), rel=1e-6)


# A dependency of OTT says so on import.
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained:DeprecationWarning")
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_all_methods_compute_the_same(case):
    inputs = kernel.make_inputs(case)
    exact = kernel.reference(inputs)
    found = {name: kernel.relative_errors(call(), exact) for name, call in kernel.methods(inputs).items() if name != kernel.FLOOR}
    assert {"swjko", "POT NumPy, value"} <= set(found)
    for name, error in found.items():
        assert error["value"] < 1e-5, name
        assert error["gradient"] is None or error["gradient"] < 1e-4, name
    assert found["POT NumPy, value"]["gradient"] is None
    assert found["swjko"]["gradient"] is not None


def test_kernel_writes_targets_and_names_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernel, "QUICK_CASES", (_TINY,))
    monkeypatch.setattr(kernel, "_optional", lambda name: None)
    monkeypatch.setattr(kernel, "_sharded_in_subprocess", lambda quick, repeats: [kernel.sharded_seconds(_TINY, repeats)])
    assert main(["kernel", "--quick", "--repeats", "3", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "kernel.json").read_text())
    (row,) = content["runs"]
    assert content["missing"] == ["torch", "ot", "ott"]
    assert set(row["median_seconds"]) == {"swjko", "jnp.sort", "no sort"}
    assert row["ratio"]["jnp.sort"] == pytest.approx(row["median_seconds"]["jnp.sort"] / row["median_seconds"]["swjko"])
    assert row["sharded"]["devices"] == jax.device_count()
    assert 0 <= row["sharded"]["difference"] < 1e-5
    met = {entry["measure"]: entry["met"] for entry in row["targets"]}
    assert met["jnp.sort"]
    assert met["value"]
    assert met["gradient"]
    assert (tmp_path / "kernel.png").stat().st_size > 0
    assert "left out, not installed: torch, ot, ott" in capsys.readouterr().out


def test_a_missed_target_says_so():
    case = kernel.Case(9, 9, 2, 4, at_least={"POT torch": 5.0})
    row = {"ratio": {"POT torch": 4.9}, "temporary_bytes": 41.0, "relative_error": {"value": 1e-7, "gradient": 2e-4}}
    assert {entry["measure"]: entry["met"] for entry in kernel.targets(case, row)} == {
        "POT torch": False,
        "temporary_bytes": False,
        "value": True,
        "gradient": False,
    }


def test_better_thread_count_counts():
    best, threads = kernel._best_threads({"swjko": 1.0, "torch.sort@1": 3.0, "torch.sort@2": 2.0})
    assert best == {"swjko": 1.0, "torch.sort": 2.0}
    assert threads == {"torch.sort": {"1": 3.0, "2": 2.0}}


@pytest.mark.parametrize("pair", directions.PAIRS)
def test_equal_angles_beat_independent_ones_in_the_plane(pair):
    sizes = directions.Sizes((2,), (8, 32), 32, 12, (2, 512))
    row = directions.measure(pair, 2, sizes)
    x, y = directions.clouds(pair, 2, 32)
    angles = np.pi * (np.arange(4096) + 0.5) / 4096
    exact = ot.sliced_wasserstein_distance(x, y, projections=np.stack([np.cos(angles), np.sin(angles)])) ** 2
    assert row["reference"]["kind"] == "quasi"
    assert row["reference"]["value"] == pytest.approx(exact, rel=1e-4)
    assert np.all(row["rms_relative_error"]["quasi"] < 0.2 * row["rms_relative_error"]["uniform"])
    (compared,) = directions.winners([row])
    assert compared["winner"] == "quasi"
    assert compared["wins"] == {"uniform": 0, "orthogonal": 0, "quasi": 2}


def test_directions_writes_json_and_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(directions, "QUICK", directions.Sizes((2, 3), (4, 8), 8, 3, (2, 16)))
    assert main(["directions", "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "directions.json").read_text())
    assert [(row["dim"], row["pair"]) for row in content["runs"]] == [(dim, pair) for dim in (2, 3) for pair in directions.PAIRS]
    assert (tmp_path / "directions.png").stat().st_size > 0
    assert "d = 3: " in capsys.readouterr().out


def test_euler_maruyama_reaches_the_law_of_its_chain():
    precision, center = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -1.0])
    points = np.asarray(fokker_planck._langevin(jax.random.key(0), precision, center, num=4000, num_steps=8000))
    covariance = np.linalg.inv(precision)
    # The steps of 1e-3 are off by 1e-3; 4000 points by more.
    np.testing.assert_allclose(points.mean(axis=0), center, atol=4 * np.sqrt(covariance.max() / 4000))
    np.testing.assert_allclose(np.cov(points.T), covariance, atol=6 * covariance.max() / np.sqrt(4000))


def test_settings_of_fokker_planck_follow_their_rule():
    for dim in (2, 10, 12, 50, 100):
        settings, _ = fokker_planck.stationary_settings(dim)
        assert settings.num_projections % dim == 0
        assert settings.num_projections >= 64
        settings, _ = fokker_planck.trajectory_settings(dim)
        steps = [time / (dim * settings.step_size) for time in fokker_planck.TIMES]
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
        assert max(steps) == pytest.approx(settings.num_steps)
