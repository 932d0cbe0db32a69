"""The benchmarks of flows in tiny settings: measures whose energies are known, averages of iterates, what they write."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swjko
from benchmarks import ablation, aggregation, mixtures
from benchmarks.__main__ import main


def test_aggregation_energies_are_those_of_the_known_measures():
    """A ring of particles, and cells that share their mass evenly, against exact values."""
    n = 400
    angles = 2 * np.pi * np.arange(n) / n
    points = jnp.asarray(
        np.stack([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(3), jnp.float32
    )
    ring, sizes = aggregation.PROBLEMS["ring"](), aggregation.QUICK
    setup = aggregation.FAMILIES["particles"]("ring", ring, jax.random.key(0), sizes)
    assert float(setup.functional(jax.random.key(0), swjko.Cloud(points))) == pytest.approx(
        ring.exact_energy, rel=1e-5
    )
    fine = sizes._replace(cells=40)
    setup = aggregation.FAMILIES["grid"](
        "disk", aggregation.PROBLEMS["disk"](), jax.random.key(0), fine
    )
    cells = np.asarray(
        swjko.sample(
            setup.family, setup.family.init(jax.random.key(0)), jax.random.key(0), 1600
        ).points
    )
    inside = (np.linalg.norm(cells, axis=1) < 1.0) / np.sum(np.linalg.norm(cells, axis=1) < 1.0)
    energy = float(
        jax.jit(setup.functional)(
            jax.random.key(0), swjko.Cloud(jnp.asarray(cells), jnp.asarray(inside, jnp.float32))
        )
    )
    assert energy == pytest.approx(0.375, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aggregation", "mixtures", "ablation"])
def test_experiments_write_json_and_figure(name, tmp_path, monkeypatch):
    monkeypatch.setattr(aggregation, "PROBLEMS", {"ring": aggregation.PROBLEMS["ring"]})
    monkeypatch.setattr(
        mixtures,
        "QUICK",
        mixtures.QUICK._replace(
            methods={"gaussian_mixture": mixtures.QUICK_METHODS["gaussian_mixture"]}
        ),
    )
    chosen = (ablation.STANDARD, "directions frozen in each step", *ablation.NETWORKS)
    monkeypatch.setattr(
        ablation, "VARIANTS", {variant: ablation.VARIANTS[variant] for variant in chosen}
    )
    assert main([name, "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / f"{name}.json").read_text())
    rows = content["runs" if name == "aggregation" else "rows"]
    if name == "aggregation":
        assert [row["family"] for row in rows] == ["particles", "mlp", "grid"]
        assert all(row["result"] == "OK" and row["energy"] > row["exact"] for row in rows)
    elif name == "mixtures":
        assert rows[0]["mean"] > 0
        assert rows[0]["published_jko_icnn"] == 0.0615
    else:
        assert set(rows[0]["difference"]) == set(chosen[1:])
        assert all(np.isfinite(rows[0]["log10"][variant]).all() for variant in chosen)
    assert (tmp_path / f"{name}.png").stat().st_size > 0


def test_averaging_optimizer_ends_at_the_mean_of_the_second_half(key):
    settings = ablation.Solve(1, 1.0, 6, 8, 4, 0.2)
    scheme = ablation._base(2, settings, ablation.QUICK)
    optimizer, constant = (
        change(scheme, settings).optimizer
        for change in (ablation._averaged, ablation._constant_rate)
    )
    at, state, plain, plain_state, passed = 1.0, optimizer.init(1.0), 1.0, constant.init(1.0), []
    for step in range(6):
        gradient = jnp.cos(1.0 * step)
        updates, plain_state = constant.update(gradient, plain_state, plain)
        plain = plain + updates
        passed.append(plain)
        updates, state = optimizer.update(gradient, state, at)
        at = at + updates
    assert float(at) == pytest.approx(float(np.mean(passed[3:])), rel=1e-5)
