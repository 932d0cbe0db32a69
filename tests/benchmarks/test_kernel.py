"""The benchmarks of the distance and of scaling: references, peers, and what they write."""

import json

import jax
import numpy as np
import ot
import pytest

from benchmarks import common, directions, kernel, native, peers, scaling, update
from benchmarks.__main__ import BENCHMARKS, main

TINY = peers.Case(24, 24, 3, 8)
CASES = [TINY, peers.Case(24, 36, 3, 8), peers.Case(24, 30, 3, 8, weighted=True)]


@pytest.fixture(autouse=True)
def _promotion_allowed():
    """Peers broadcast arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_equals_pot_and_its_gradient_the_central_difference(case):
    inputs = peers.make_inputs(case).map(lambda array: array.astype(np.float64))
    if case.weighted:
        weights = {name: getattr(inputs, name) for name in ("x_weights", "y_weights")}
        inputs = inputs._replace(**{name: one / one.sum() for name, one in weights.items()})
    value, gradient = peers.reference(inputs)

    def pot(x):
        _, y, lines, *weights = inputs
        return ot.sliced_wasserstein_distance(x, y, *weights, projections=lines.T) ** 2

    assert value == pytest.approx(pot(inputs.x), rel=1e-12)
    step = 1e-6 * np.random.default_rng(1).standard_normal(inputs.x.shape)
    difference = pot(inputs.x + step) - pot(inputs.x - step)
    assert difference == pytest.approx(2 * np.sum(gradient * step), rel=1e-6)


# A dependency of OTT warns on import.
@pytest.mark.slow_except_first
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained:DeprecationWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_methods_compute_the_same(case):
    inputs = peers.make_inputs(case)
    exact = peers.reference(inputs)
    found = {
        name: peers.relative_errors(call(), exact)
        for name, call in peers.methods(inputs).items()
        if name != peers.FLOOR
    }
    assert {"swjko", "POT NumPy, value"} <= set(found)
    for name, error in found.items():
        assert error["value"] < 1e-5, name
        assert error["gradient"] is None or error["gradient"] < 1e-4, name
    assert found["POT NumPy, value"]["gradient"] is None
    assert found["swjko"]["gradient"] is not None


@pytest.mark.slow
def test_kernel_writes_its_rows_and_names_missing_packages(tmp_path, monkeypatch, capsys):
    sizes = kernel.QUICK._replace(cases=(TINY,), peak_directions=())
    monkeypatch.setattr(kernel, "QUICK", sizes)
    monkeypatch.setattr(common, "optional", lambda name: None)
    monkeypatch.setattr(kernel, "sharded_in_child", kernel.sharded_seconds)
    assert main(["kernel", "--quick", "--repeats", "3", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "kernel.json").read_text())
    (row,) = content["runs"]
    assert content["missing"] == ["torch", "ot", "ott"]
    seconds = row["median_seconds"]
    assert set(seconds) == {"swjko", "jnp.sort", "no sort"}
    assert row["ratio"]["jnp.sort"] == pytest.approx(seconds["jnp.sort"] / seconds["swjko"])
    assert row["sharded"]["devices"] == jax.device_count()
    assert 0 <= row["sharded"]["difference"] < 1e-5
    assert row["relative_error"]["value"] < 3e-7
    assert row["relative_error"]["gradient"] < 1e-4
    assert (tmp_path / "kernel.png").stat().st_size > 0
    printed = capsys.readouterr().out
    assert "left out, not installed: torch, ot, ott" in printed
    assert "n = 24, d = 3, 8 directions" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["variants", "spheres"])
def test_other_distances_beside_pot(name, tmp_path):
    assert main([name, "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert ("torch" in content["missing"]) == (common.optional("torch") is None)
    if name == "spheres":
        for row in content["rows"]:
            assert row["agreement"]["POT NumPy, value"]["value"] < 1e-5
        return
    assert [row["variant"] for row in content["rows"]] == [
        *("SUOT", "USOT"),
        *("best plan", "expected plan"),
    ]
    for row in content["rows"][2:]:
        assert row["values"]["POT NumPy"] == pytest.approx(row["values"]["swjko"], rel=1e-5)


def test_the_better_thread_count_of_a_method_counts():
    best, threads = kernel.best_threads({"swjko": 1.0, "torch.sort@1": 3.0, "torch.sort@2": 2.0})
    assert best == {"swjko": 1.0, "torch.sort": 2.0}
    assert threads == {"torch.sort": {"1": 3.0, "2": 2.0}}


@pytest.mark.parametrize("pair", directions.PAIRS)
def test_equal_angles_beat_independent_ones_in_the_plane(pair):
    sizes = directions.Sizes((2,), (8, 32), 32, 12, (2, 512))
    row = directions.measure(pair, 2, sizes)
    x, y = directions.clouds(pair, 2, 32)
    angles = np.pi * (np.arange(4096) + 0.5) / 4096
    lines = np.stack([np.cos(angles), np.sin(angles)])
    exact = ot.sliced_wasserstein_distance(x, y, projections=lines) ** 2
    assert row["reference"]["kind"] == "quasi"
    assert row["reference"]["value"] == pytest.approx(exact, rel=1e-4)
    assert np.all(row["rms_relative_error"]["quasi"] < 0.2 * row["rms_relative_error"]["uniform"])
    (compared,) = directions.winners([row])
    assert compared["winner"] == "quasi"
    assert compared["wins"] == {"uniform": 0, "orthogonal": 0, "quasi": 2}


@pytest.mark.slow
def test_directions_writes_json_and_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(directions, "QUICK", directions.Sizes((2, 3), (4, 8), 8, 3, (2, 16)))
    assert main(["directions", "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "directions.json").read_text())
    pairs = [(row["dim"], row["pair"]) for row in content["runs"]]
    assert pairs == [(dim, pair) for dim in (2, 3) for pair in directions.PAIRS]
    assert (tmp_path / "directions.png").stat().st_size > 0
    assert "orthogonal / uniform" in capsys.readouterr().out


@pytest.mark.slow
def test_scaling_writes_rates_and_exponents(tmp_path, monkeypatch):
    plan = scaling.QUICK._replace(varied={"num_samples": (16, 32), "num_steps": (1, 2)})
    monkeypatch.setattr(scaling, "QUICK", plan)
    assert main(["scaling", "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["num_flows"] for row in content["flows"]] == list(plan.nums_flows)
    for row in content["flows"]:
        rates = row["flows_per_second"]
        assert row["ratio"] == pytest.approx(rates["run_many"] / rates["loop"])
    costs = [row for rows in content["sizes"].values() for row in rows]
    assert all(row["seconds"] > 0 and row["temporary_bytes"] > 0 for row in costs)
    small, large = content["sizes"]["num_samples"]
    slope = np.log2(large["temporary_bytes"] / small["temporary_bytes"])
    assert content["exponents"]["num_samples"]["temporary_bytes"] == pytest.approx(slope)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    for row in content["points"]:
        assert [cost["points"] for cost in row["costs"]] == [200, 400]
        first, second = row["costs"][-1]["energies"]
        assert first > second > 0  # after one update and after two
        assert set(row["exponents"]) == {"step_seconds", "update_seconds", "temporary_mib"}
    assert [row["devices"] for row in content["points"]] == [1, 2, 1, 2]


def test_exponents_are_slopes_over_the_largest_sizes():
    rows = [
        {"dim": dim, "seconds": max(1e-3, dim**1.5 / 100), "temporary_bytes": 7 * dim}
        for dim in (1, 4, 16, 64)
    ]
    found = scaling.fitted_exponents("dim", rows, 3)
    assert found == pytest.approx({"seconds": 1.5, "temporary_bytes": 1.0})
    without = [row | {"temporary_bytes": None} for row in rows]
    assert scaling.fitted_exponents("dim", without, 3)["temporary_bytes"] is None


@pytest.mark.slow
def test_update_times_its_own_checkout_where_torch_is_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "optional", lambda name: None)
    assert main(["update", "--quick", "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "update.json").read_text())["rows"]
    assert row["now"]["ms_per_update"] > 0
    assert row["now"]["compile_seconds"] > 0
    assert not {"torch", "native", "before"} & set(row)


def test_the_better_of_the_threads_counts():
    rivals = {"sorts@1": 8.0, "sorts@2": 6.0, "quantiles@1": 9.0}
    found = update.best_of("sorts", rivals, {"now": 2.0, "native": 1.5})
    assert found == {"best": 6.0, "ratio": {"now": 3.0, "native": 4.0}}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert "--quick" in capsys.readouterr().out


def test_spheres_measures_ours_where_torch_is_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "optional", lambda name: None)
    assert main(["spheres", "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "spheres.json").read_text())
    assert content["missing"] == ["torch", "ot"]
    assert [row["case"]["dim"] for row in content["rows"]] == [2, 3]
    assert all(row["ratio"] == {"swjko": 1.0} for row in content["rows"])


def test_the_native_sorts_are_timed_only_where_they_are_installed(monkeypatch):
    monkeypatch.setattr(native, "native_sorts", lambda: None)
    with pytest.raises(SystemExit, match="pip install"):
        main(["native", "--quick"])
