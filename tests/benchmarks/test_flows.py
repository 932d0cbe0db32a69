"""Benchmarks of flows in tiny settings: known energies, settings, optimizers, results."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import swjko
from benchmarks import (
    ablation,
    aggregation,
    densities,
    fokker_planck,
    gaussian_flows,
    mixtures,
    particles,
)
from benchmarks.__main__ import main
from swjko import problems


@pytest.mark.slow
def test_energies_of_known_measures():
    """A ring of particles, and cells that share their mass evenly, against exact values."""
    key, sizes = jax.random.key(0), aggregation.QUICK
    angles = 2 * np.pi * np.arange(400) / 400
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(3)
    ring = aggregation.PROBLEMS["ring"]()
    setup = aggregation.FAMILIES["particles"]("ring", ring, key, sizes)
    energy = float(setup.functional(key, swjko.Cloud(jnp.asarray(circle, jnp.float32))))
    assert energy == pytest.approx(ring.exact_energy, rel=1e-5)
    disk, fine = aggregation.PROBLEMS["disk"](), sizes._replace(cells=40)
    family, functional = aggregation.FAMILIES["grid"]("disk", disk, key, fine)
    cells = swjko.sample(family, family.init(key), key, 1600).points
    inside = jnp.asarray(jnp.linalg.norm(cells, axis=1) < 1.0, jnp.float32)
    energy = float(jax.jit(functional)(key, swjko.Cloud(cells, inside / inside.sum())))
    assert energy == pytest.approx(0.375, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aggregation", "mixtures", "ablation", "generators"])
def test_quick_run_writes_json_and_figure(name, tmp_path, monkeypatch):
    methods = {"gaussian_mixture": mixtures.QUICK_METHODS["gaussian_mixture"]}
    chosen = (ablation.STANDARD, "directions frozen in each step", *ablation.NETWORKS)
    variants = {variant: ablation.VARIANTS[variant] for variant in chosen}
    monkeypatch.setattr(aggregation, "PROBLEMS", {"ring": aggregation.PROBLEMS["ring"]})
    monkeypatch.setattr(mixtures, "QUICK", mixtures.QUICK._replace(methods=methods))
    monkeypatch.setattr(ablation, "VARIANTS", variants)
    assert main([name, "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / f"{name}.json").read_text())
    rows = content["runs" if name == "aggregation" else "rows"]
    if name == "aggregation":
        assert [row["family"] for row in rows] == ["particles", "mlp", "grid"]
        assert all(row["result"] == "OK" and row["energy"] > row["exact"] for row in rows)
    elif name == "mixtures":
        assert rows[0]["mean"] > 0
        assert rows[0]["published_jko_icnn"] == 0.0615
    elif name == "generators":
        assert [row["method"] for row in rows] == 2 * ["sw_jko", "drifting"]
        assert all(row["sw"]["mean"] > row["floor"] > 0 for row in rows)
    else:
        assert set(rows[0]["difference"]) == set(chosen[1:])
        assert all(np.isfinite(rows[0]["log10"][variant]).all() for variant in chosen)
    assert (tmp_path / f"{name}.png").stat().st_size > 0


# Blackjax adds arrays of different ranks.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_quick_run_of_particles_writes_json_and_figure(tmp_path):
    with jax.numpy_rank_promotion("allow"):
        assert main(["particles", "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "particles.json").read_text())
    found = {(row["problem"], row["method"]): row for row in content["curves"]}
    assert {method for _, method in found} == set(particles.METHODS)
    assert ("digits", "SVGD") not in found
    assert all(len(row["distance"]) == 3 and row["result"] == "OK" for row in found.values())
    assert content["svgd"]["largest_difference"] < 1e-5
    assert [(row["points"], row["result"]) for row in content["large"]] == [(500, "OK")] * 3
    assert (tmp_path / "particles.png").stat().st_size > 0


@pytest.mark.slow
def test_quick_run_of_densities_scores_every_method(tmp_path):
    assert main(["densities", "--quick", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "densities.json").read_text())["rows"]
    assert [row["table"] for row in rows] == list(densities.TABLES)
    for row in rows:
        scores = {name: method["held_out"]["mean"] for name, method in row["methods"].items()}
        assert {"Gaussian", "start", "random bases", "slice matching", "coupling flow"} <= set(
            scores
        )
        assert all(map(np.isfinite, scores.values()))
        # The steps that are kept are those of the largest likelihood, the start among them.
        assert scores["slice matching"] > scores["start"] - 0.5
        ratio = (
            row["methods"]["coupling flow"]["seconds"] / row["methods"]["slice matching"]["seconds"]
        )
        assert row["ratios"]["slice matching"]["runs"] == pytest.approx(ratio)
        assert not row["near"] or 0 <= row["near"]["steps"] <= densities.Sizes().refined_steps


def test_energy_distance_of_two_points_is_twice_their_distance():
    assert particles.energy_distance([[0.0, 0.0]], [[3.0, 4.0]]) == pytest.approx(10.0)


def test_averaging_ends_at_the_mean_of_the_second_half():
    constant = optax.adam(0.1)
    averaged = ablation.averaging(constant, 6)
    at, state, plain, plain_state, passed = 1.0, averaged.init(1.0), 1.0, constant.init(1.0), []
    for step in range(6):
        gradient = jnp.cos(1.0 * step)
        updates, plain_state = constant.update(gradient, plain_state, plain)
        plain = plain + updates
        passed.append(plain)
        updates, state = averaged.update(gradient, state, at)
        at = at + updates
    assert float(at) == pytest.approx(float(np.mean(passed[3:])), rel=1e-5)


@pytest.mark.slow
def test_frozen_directions_are_those_of_one_draw(key):
    """A step equals one whose directions are fixed in advance to the frozen draw."""
    target = problems.gaussian_target(0, 2).target
    settings = gaussian_flows.Solve(1, 0.1, 4, 8, 4, 1e-2)
    scheme = gaussian_flows.kl_scheme(swjko.gaussian(2), target, settings)
    frozen = ablation.VARIANTS["directions frozen in each step"](scheme, settings)
    directions = scheme.direction_fn(jax.random.fold_in(key, 1), 4, 2)
    fixed = dataclasses.replace(scheme, direction_fn=lambda *_: directions)
    found, expected = (jax.jit(one.step)(key, one.init(key))[0].params for one in (frozen, fixed))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_euler_maruyama_reaches_the_law_of_its_chain():
    precision, center = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -1.0])
    options = {"num": 4000, "num_steps": 8000}
    points = np.asarray(gaussian_flows.langevin(jax.random.key(0), precision, center, **options))
    covariance = np.linalg.inv(precision)
    # Steps of 1e-3 are off by 1e-3, and 4000 points by more.
    scale = 4 * np.sqrt(covariance.max() / 4000)
    np.testing.assert_allclose(points.mean(axis=0), center, atol=scale)
    tolerance = 6 * covariance.max() / np.sqrt(4000)
    np.testing.assert_allclose(np.cov(points.T), covariance, atol=tolerance)


@pytest.mark.parametrize("dim", [2, 10, 12, 50, 100])
def test_settings_of_fokker_planck_follow_their_rule(dim):
    settings, _ = fokker_planck.stationary_settings(dim)
    assert settings.num_projections % dim == 0
    assert settings.num_projections >= 64
    settings, _ = gaussian_flows.trajectory_settings(dim)
    steps = [time / (dim * settings.step_size) for time in gaussian_flows.TIMES]
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    assert max(steps) == pytest.approx(settings.num_steps)
