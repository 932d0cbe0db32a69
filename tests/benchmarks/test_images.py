"""Benchmark of images: metrics, comparisons and figures against other ways, and a quick run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.distance import cdist

import swjko
from benchmarks import common, generated_images
from benchmarks.__main__ import main
from benchmarks.images import benchmark, classifier, figures, methods, metrics
from benchmarks.images.settings import METHODS, QUICK, SMALL
from benchmarks.images.summary import summarise
from swjko.autoencoder import autoencoder
from swjko.cli import codes
from swjko.problems import Images


def test_frechet_distance_by_the_matrix_root():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4)) @ rng.standard_normal((4, 4))
    y = 1.0 + rng.standard_normal((150, 4)) @ rng.standard_normal((4, 4))
    covs = [np.cov(part.T, bias=True) for part in (x, y)]
    root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(covs[0] + covs[1] - 2 * root)
    assert metrics.frechet(x, y) == pytest.approx(100 * expected, rel=1e-6)
    assert metrics.frechet(x, x) == pytest.approx(0.0, abs=1e-6)
    assert metrics.frechet(x, x + 2.0) == pytest.approx(100 * 16.0, rel=1e-9)


def test_precision_and_recall_count_points_within_neighbourhoods():
    rng = np.random.default_rng(1)
    generated, real = rng.standard_normal((30, 2)), 0.5 + rng.standard_normal((40, 2))
    radii = metrics.neighbour_distances(real)

    def within(points, others):
        own = np.sort(cdist(others, others), axis=1)[:, 3]
        return np.mean(np.any(cdist(points, others) <= own, axis=1))

    expected = within(generated, real), within(real, generated)
    assert metrics.precision_and_recall(generated, real, radii) == pytest.approx(expected)
    assert metrics.precision_and_recall(real, real, radii) == (1.0, 1.0)
    assert metrics.precision_and_recall(generated + 100.0, real, radii) == (0.0, 0.0)
    x, y = rng.uniform(size=(12, 5)).astype(np.float32), rng.uniform(size=(9, 5)).astype(np.float32)
    nearest = cdist(x, y).min(axis=1)
    np.testing.assert_allclose(metrics.nearest_distances(x, y), nearest, rtol=1e-4)


@pytest.fixture(scope="module")
def data():
    """Halves of a set of two classes that anyone tells apart: bright above, or bright below."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 120)
    pixels = rng.integers(0, 80, (120, 8, 8, 1))
    pixels[labels == 0, :4] += 150
    pixels[labels == 1, 4:] += 150
    images = Images(pixels.astype(np.uint8), labels, "halves")
    sizes = QUICK._replace(rows=None, classifier_steps=60)
    return benchmark.prepare(jax.random.key(0), images, 0, sizes)


@pytest.mark.slow
def test_classifier_learns_and_its_features_have_variance_one(data):
    variance = data.classifier.features(data.train, data.shape).var(axis=0).sum()
    assert data.classifier.test_accuracy > 0.95
    assert variance == pytest.approx(1.0, rel=1e-4)
    assert len(data.classifier.sha256) == 64
    assert data.features.shape == (60, classifier.NUM_FEATURES)


@pytest.mark.slow
def test_metrics_tell_copies_from_noise(data):
    score = metrics.Scorer(jax.random.key(1), data, num_projections=64, num_ascents=4)
    uniform = np.random.default_rng(0).uniform(size=data.held_out.shape)
    same, copies, noise = (score(rows) for rows in (data.held_out, data.train, uniform))
    assert float(same.sw.value) == pytest.approx(0.0, abs=1e-6)
    assert same.frechet == pytest.approx(0.0, abs=1e-5)
    assert (same.precision, same.recall, same.memorisation) == (1.0, 1.0, pytest.approx(1.0))
    assert copies.memorisation < 0.1
    assert noise.frechet > 10 * copies.frechet
    assert noise.sw.value > copies.sw.value + 3 * noise.sw.standard_error
    assert noise.max_sw.value > np.sqrt(noise.sw.value)
    assert noise.precision < 0.2 < copies.precision
    assert score.few(data.train) == {"sw": copies.sw, "frechet": copies.frechet}
    with pytest.raises(ValueError, match="as many as those held out"):
        score(data.held_out[:-1])


@pytest.mark.slow
def test_every_method_makes_images_and_flows_start_at_their_noise(key, data):
    model, rows = autoencoder(data.shape, latent_dim=8), jnp.asarray(data.train)
    spaces = {
        "ambient": methods.ambient(rows, data.shape),
        "latent": methods.latent(model, model.init(key), rows),
    }
    for name in METHODS:
        space = spaces[name.split()[0]]
        scheme = methods.make_scheme(key, name, space, 60, QUICK.updates[name], QUICK.network)
        family = space.show(scheme.family)
        cloud = jax.eval_shape(lambda f=family: swjko.sample(f, f.init(key), key, 60))
        assert cloud.points.shape == (60, 64), name
        if name in ("ambient sw_jko coupling", "ambient sliced_flow", "latent sw_jko particles"):
            start = swjko.sample(scheme.family, scheme.family.init(key), key, 60).points
            assert float(start.mean()) == pytest.approx(space.init_mean, abs=0.1), name
            assert float(start.std()) == pytest.approx(space.init_scale, rel=0.1), name


@pytest.mark.slow
def test_stages_are_one_run(key):
    points = jax.random.normal(key, (20, 2))
    scheme = swjko.sliced_flow(points, jnp.ones((10, 2)), step_size=0.5, num_projections=4)
    whole, stages = methods.solve(key, scheme, [6]), methods.solve(key, scheme, [2, 4, 6])
    assert list(stages.kept) == [0, 2, 4, 6]
    np.testing.assert_allclose(whole.state.params, stages.state.params, rtol=1e-6)
    np.testing.assert_allclose(whole.infos.energy, stages.infos.energy, rtol=1e-5)


def test_comparisons_are_ratios_and_differences_with_their_errors():
    def metrics_of(frechet, sw):
        estimate = swjko.types.Estimate(jnp.asarray(sw), jnp.asarray(0.1))
        return common.finite_json(metrics.Metrics(estimate, estimate, frechet, 0.5, 0.5, 1.0))

    def run(*pair):
        numbers = {"run_seconds": 1.0, "compile_seconds": 1.0, "updates": 3}
        return {"metrics": metrics_of(*pair), **numbers}

    names = ["latent sw_jko coupling", "latent sliced_flow"]
    floors = ("autoencoder, held-out", "autoencoder, training")
    numbers = [((2.0, 1.0), (6.0, 3.0)), ((4.0, 1.0), (8.0, 5.0))]
    seeds = [
        {
            "methods": {name: run(*pair) for name, pair in zip(names, pairs, strict=True)},
            "references": {name: metrics_of(2.0, 0.0) for name in floors},
        }
        for pairs in numbers
    ]
    summary = summarise(seeds, names)
    assert summary["rows"][0]["frechet"] == {"mean": 3.0, "deviation": pytest.approx(np.sqrt(2.0))}
    found, (ours, other) = summary["comparisons"], names
    assert found[f"Frechet of {other} over that of {ours}"]["mean"] == pytest.approx(2.5)
    assert found[f"Frechet of {ours} over that of {floors[0]}"]["mean"] == pytest.approx(1.5)
    gap = found[f"SW of {other} minus that of {ours}"]
    assert gap["mean"] == pytest.approx(3.0)
    assert gap["standard_error"] == pytest.approx(np.hypot(0.1, 1.0), rel=1e-5)


def test_figures_place_images_and_latents():
    tiles = figures.tiled(np.arange(6.0)[:, None].repeat(4, axis=1), (2, 2, 1), (2, 3))
    assert tiles.shape == (6, 9, 1)
    np.testing.assert_array_equal(tiles[::3, ::3, 0], np.arange(6.0).reshape(2, 3))
    ends = np.random.default_rng(0).standard_normal((4, 3))
    path = figures.great_circles(ends, count=5)
    np.testing.assert_allclose(path[[0, 4, 5, 9]], ends[[0, 2, 1, 3]], atol=1e-6)


def test_go_on_keeps_seeds_of_the_same_settings_alone(tmp_path):
    path = tmp_path / "images_digits.json"
    settings = {"data": "digits", "updates": QUICK.updates}
    assert benchmark.seeds_of(path, settings) == []
    common.write_results("images_digits", settings | {"seeds": [{"seed": 0}]}, tmp_path)
    assert benchmark.seeds_of(path, settings) == [{"seed": 0}]
    with pytest.raises(ValueError, match=r"got others \(updates\)"):
        benchmark.seeds_of(path, settings | {"updates": SMALL.updates})


@pytest.mark.slow
def test_quick_run_writes_json_and_figures(tmp_path):
    assert main(["images", "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "images_digits.json").read_text())
    assert [row["method"] for row in content["rows"]] == list(METHODS)
    found = [seed["methods"][name]["result"] for seed in content["seeds"] for name in METHODS]
    assert set(found) == {"OK"}
    assert all(value > 0 for value in content["memory_mb"].values())
    for name in ("sheets", "steps", "scores"):
        assert 0 < (tmp_path / f"images_digits_{name}.png").stat().st_size < 400_000


@pytest.mark.slow
def test_quick_run_of_generate_writes_rows_and_their_floor(tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "FIT_STEPS", 20)
    rows = (generated_images.ROWS[0], generated_images.ROWS[4])
    monkeypatch.setattr(generated_images, "ROWS", rows)
    assert main(["generate", "--quick", "--seeds", "1", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "generate.json").read_text())
    assert [row["told"] for row in content["rows"]] == ["cluster", "nothing"]
    floor = {row["reference"]: row["frechet"]["mean"] for row in content["references"]}
    assert list(floor) == ["training images", "codes through the autoencoder"]
    for row in content["rows"]:
        ratio = row["frechet"]["mean"] / floor["codes through the autoencoder"]
        assert row["over_autoencoder"]["mean"] == pytest.approx(ratio)
    assert (tmp_path / "generate.png").stat().st_size > 0


def test_each_row_of_generate_asks_for_what_it_is_told():
    assert [row.options.get("clusters", "") for row in generated_images.ROWS] == [
        *(None, "", 1),
        *(None, 1, None),
    ]
    assert [row.options.get("by_class", False) for row in generated_images.ROWS].index(True) == 1
