"""The reliability drills: that they find what they look for where it is there, and only there."""

import hashlib
import json

import jax
import numpy as np
import pytest

from benchmarks import reliability, reliability_child, reliability_processes
from benchmarks.__main__ import main
from swjko.checkpoints import store as checkpoints


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Nearly all of the time here is compilation, and nothing here is about speed."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def met(name, measured):
    return reliability.ROWS[name].judge(measured, reliability.FULL)


def test_nans_stop_their_flow_alone():
    assert met("R6", reliability.nans(2))


def test_a_poison_that_does_not_stay_with_its_flow_is_found(monkeypatch):
    def step(self, key, state, real=reliability.Poisoned.step):
        # Whatever the flow, from the second step on.
        return real(reliability.Poisoned(self.one, 0 * self.at + 1), key, state)

    monkeypatch.setattr(reliability.Poisoned, "step", step)
    found = reliability.nans(1)
    assert found["wrong_codes"] == 1
    assert not met("R6", found)


def test_step_sizes_far_too_large_diverge_and_small_ones_do_not(monkeypatch):
    assert met("R7", reliability.divergences(2))
    monkeypatch.setattr(
        reliability.np, "geomspace", lambda low, high, num: np.linspace(0.1, 0.2, num)
    )
    assert not met("R7", reliability.divergences(2))


def test_corruption_is_met_by_a_word():
    found = reliability.corruptions(24)
    assert met("R9", found)
    assert found["fell_back"] == found["refused"] == 12


def test_corruption_that_is_not_looked_for_is_found(monkeypatch):
    def load(path, history, damaged):
        good = {"step-0000000001.ckpt": 1, "step-0000000002.ckpt": 2}[path.name]
        return checkpoints._Found(
            good, {"configuration": {}}, [np.zeros(())] * 4, [], 0, hashlib.sha256(), []
        )

    monkeypatch.setattr(checkpoints, "_load", load)
    found = reliability.corruptions(6)
    assert found["silent"] == 6
    assert not met("R9", found)


def test_estimates_are_covered_and_their_error_falls():
    found = reliability.estimates(100, (64, 256))
    assert found["slope"] == pytest.approx(-0.5, abs=0.15)
    assert all(row["coverage"] > 0.85 for row in found["rows"])
    assert not met("R20", found | {"slope": -0.4})


def test_arrays_are_compared_by_values_and_draws_by_bits():
    one = {"value a": np.array([1.0, 2.0]), "draw b": np.array([3.0])}
    assert reliability_processes._compared(one, one) == {"difference": 0.0, "same_draws": True}
    other = {"value a": np.array([1.0, 2.1]), "draw b": np.array([np.nextafter(3.0, 4.0)])}
    found = reliability_processes._compared(other, one)
    assert found["difference"] == pytest.approx(0.05)
    assert not found["same_draws"]


def test_collectives_are_read_from_compiled_text():
    text = """
  %all-reduce.1 = (f32[], f32[4096,3]{1,0}) all-reduce(%a, %b), channel_id=1
  ROOT %all-gather-start.2 = s64[64,8]{1,0} all-gather-start(%c), dimensions={1}
  %sort.1 = s32[64,8]{1,0} sort(%all-reduce.1)
"""
    assert reliability_child._exchanged(text) == {
        "collectives": {"all-reduce": 1, "all-gather": 1},
        "bytes": 4 + 4 * 4096 * 3 + 8 * 64 * 8,
    }
    assert reliability_child._exchanged("%x = f32[3] add(%a, %b)") == {
        "collectives": {},
        "bytes": 0,
    }


def test_what_devices_exchange_is_what_the_plan_says():
    found = reliability_child.collectives(512, 3, 64)
    assert met("collectives", found)
    assert found["points"]["bytes"] > 512 * 64
    assert not met("collectives", found | {"flows": found["directions"]})


def test_digests_tell_any_bit_apart():
    one = {"a": np.array([1.0, 2.0]), "b": np.array([0], np.int32)}
    assert reliability_child.digest(one) == reliability_child.digest(dict(one))
    assert reliability_child.digest(one) != reliability_child.digest(
        one | {"a": np.array([1.0, np.nextafter(2.0, 3.0)])}
    )


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "R8",
            {"differing_ends": 0, "damaged_loads": 0, "kills_while_writing": 10},
            {"differing_ends": 1},
        ),
        (
            "R8",
            {"differing_ends": 0, "damaged_loads": 0, "kills_while_writing": 10},
            {"kills_while_writing": 9},
        ),
        (
            "R10 signals",
            {"SIGTERM": {"code": 143, "same_end": True}, "SIGINT": {"code": 130, "same_end": True}},
            {"SIGINT": {"code": 0, "same_end": True}},
        ),
        (
            "R10 disks",
            {
                "full disk": {
                    "code": 1,
                    "same_end": True,
                    "told": "swjko.checkpoints.CheckpointError: ...",
                }
            },
            {"full disk": {"code": 1, "same_end": True, "told": "KeyError: 1"}},
        ),
        ("R11", {"let_in": []}, {"let_in": ["dtype"]}),
        ("R25", {"seconds": 1.0, "heavy": [], "works_without_distrax": True}, {"heavy": ["flax"]}),
        ("checkpoints", {"spent_on_checkpoints": 0.01}, {"spent_on_checkpoints": 0.03}),
        (
            "R17",
            {
                "against_one": {"difference": 0.0, "same_draws": True},
                "process 1 killed": {
                    "survivor_code": -6,
                    "survivor_seconds": 12.0,
                    "same_end": True,
                },
            },
            {"process 1 killed": {"survivor_code": -6, "survivor_seconds": 16.0, "same_end": True}},
        ),
    ],
)
def test_rows_are_judged_by_what_they_require(name, good, bad):
    assert met(name, good)
    assert not met(name, good | bad)


def test_rows_measured_one_by_one_are_kept_together(tmp_path, monkeypatch, capsys):
    rows = {
        "one": reliability.Row(
            "a drill",
            "five",
            lambda plan: {"found": 5},
            lambda measured, plan: measured["found"] == 5,
        ),
        "two": reliability.Row(
            "another",
            "six",
            lambda plan: [{"found": 5}],
            lambda measured, plan: measured[0]["found"] == 6,
        ),
    }
    monkeypatch.setattr(reliability, "ROWS", rows)
    assert main(["reliability", "--quick", "--out", str(tmp_path), "--only", "two"]) == 1
    assert main(["reliability", "--quick", "--out", str(tmp_path), "--only", "one"]) == 0
    printed = capsys.readouterr().out
    assert "NOT MET" in printed
    assert "found 5" in printed
    content = json.loads((tmp_path / "reliability.json").read_text())
    assert {name: row["met"] for name, row in content["rows"].items()} == {
        "one": True,
        "two": False,
    }
    assert list(content["rows"]) == ["one", "two"]
    assert content["rows"]["two"]["measured"] == [{"found": 5}]


def test_the_drill_of_refusals_in_a_process_of_its_own():
    assert met("R11", reliability_processes.refusals())


@pytest.mark.slow
def test_kills_signals_and_disks_in_processes_of_their_own():
    killed = reliability_processes.kills(1, 1, num_steps=100, num_points=100_000, cloud_steps=10)
    assert reliability.ROWS["R8"].judge(killed, reliability.QUICK)
    assert met("R10 signals", reliability_processes.signals(100))
    assert met("R10 disks", reliability_processes.disks())


@pytest.mark.slow
def test_a_survivor_leaves_and_the_run_goes_on():
    measured = reliability_processes.peers(5.0, num_steps=8, num_inner_steps=20)
    assert measured["against_one"]["difference"] <= 1e-6
    assert measured["against_one"]["same_draws"]
    for killed in (0, 1):
        row = measured[f"process {killed} killed"]
        assert row["survivor_code"] != 0
        assert row["same_end"]
