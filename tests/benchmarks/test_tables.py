"""The model of ``docs/scaling.md``: its constants, its sums, and the tables made from them."""

import math

import pytest

from benchmarks import scaling_plan, tables


def kernel():
    def row(n, directions, seconds, temporary, weighted=False):
        shape = {"n": n, "m": n, "dim": 3, "directions": directions, "weighted": weighted}
        return {"shape": shape, "median_seconds": {"swjko": seconds}, "temporary_bytes": temporary}

    return {
        "runs": [
            row(1024, 10, 1024 * 10 * 2 * 10 * 3e-9, 30.0),
            row(2048, 10, 2048 * 11 * 2 * 10 * 2e-9, 20.0),
            row(4096, 8, 9.0, 99.0, weighted=True),
        ]
    }


def test_constants_come_from_the_largest_case_and_the_most_bytes():
    found = scaling_plan.planned(kernel())
    assert found.seconds == pytest.approx(2e-9)
    assert found.bytes == 30.0
    one = 2048 * 11 * 2 * 2e-9
    assert found.sorting(2048, 10) == pytest.approx(10 * one)
    assert found.sorting(2048, 10, 4) == pytest.approx(3 * one)


def test_exchange_and_memory_of_the_model():
    model = scaling_plan.Model(1e-9, 30.0, bandwidth=1e6, latency=0.5)
    assert model.exchange(1000, 5, 1) == 0.0
    assert model.exchange(1000, 5, 8) == pytest.approx(2 * 7 / 8 * 4 * 5001 / 1e6 + 6 * 0.5)
    for devices, directions in ((4, 16), (64, 2)):
        on_each = model.memory(1000, 5, 128, devices, block=16)
        assert on_each == 12 * 1000 * 5 + 30 * 1000 * directions


def test_tables_show_what_the_model_gives():
    lines = tables.render("scaling-plan-directions", {"kernel": kernel()})
    assert len(lines) == 2 + 5
    alone = scaling_plan.planned(kernel()).sorting(10**5, 10**6)
    assert "| 1 | 1,000,000 | 0.2" in lines[2]
    assert f"{alone / 60:.3g} min" in lines[2] or f"{alone / 3600:.3g} h" in lines[2]
    assert lines[-1].startswith("| 4,096 | 245 |")
    years = 10**4 * 2e-9 * 2e9 * math.log2(1e9) * 1e6 / (365.25 * 86400)
    (sentence,) = tables.render("scaling-plan-all", {"kernel": kernel()})
    assert f"{years:.1e} device-years" in sentence


@pytest.mark.parametrize(
    ("region", "drill"),
    [
        ("scaling-plan-exchange", "collectives"),
        ("scaling-plan-devices", "R16"),
        ("scaling-plan-saving", "checkpoints"),
    ],
)
def test_a_missing_drill_is_named(region, drill):
    (line,) = tables.render(region, {"reliability": {"rows": {}}})
    assert line == f"*Not measured yet: `reliability.json` lacks the drill `{drill}`.*"


def test_flows_of_the_plan_count_idle_devices():
    flows = [
        {"num_flows": num, "flows_per_second": {"run_many": rate, "loop": 1.0}}
        for num, rate in ((1, 5.0), (8, 10.0))
    ]
    base = {"num_samples": 256, "num_projections": 64, "dim": 2, "num_steps": 2}
    content = {"flows": flows, "plan": {"base": base, "num_inner_steps": 10}}
    lines = tables.render("scaling-plan-flows", {"scaling": content})
    assert lines[2] == "| 1 | 10,000 | 0 B | 16.7 min | 100% |"
    assert lines[-3] == "| 4,096 | 3 | 0 B | 0.3 s | 81% |"
    assert "10 flows a second" in lines[-1]
