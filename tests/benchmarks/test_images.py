"""The images benchmark: metrics against other ways to the same number, comparisons from known metrics, figures, and a quick run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial

import swjko
from benchmarks import image_classifier, image_figures, image_metrics, images, report
from benchmarks.__main__ import main
from benchmarks.image_metrics import Metrics
from swjko.data.images import Images
from swjko.networks.autoencoder import autoencoder


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_frechet_distance_is_that_of_the_matrix_root():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4)) @ rng.standard_normal((4, 4))
    y = 1.0 + rng.standard_normal((150, 4)) @ rng.standard_normal((4, 4))
    covs = [np.cov(part.T, bias=True) for part in (x, y)]
    root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(covs[0] + covs[1] - 2 * root)
    assert image_metrics.frechet(x, y) == pytest.approx(100 * expected, rel=1e-6)
    assert image_metrics.frechet(x, x) == pytest.approx(0.0, abs=1e-6)
    assert image_metrics.frechet(x, x + 2.0) == pytest.approx(100 * 16.0, rel=1e-9)


def test_precision_and_recall_count_points_within_neighbourhoods():
    rng = np.random.default_rng(1)
    generated, real = rng.standard_normal((30, 2)), 0.5 + rng.standard_normal((40, 2))
    precision, recall = image_metrics.precision_and_recall(
        generated, real, image_metrics.neighbour_distances(real)
    )

    def within(points, others):
        own = np.sort(scipy.spatial.distance.cdist(others, others), axis=1)[:, 3]
        return np.mean(
            [
                any(
                    np.linalg.norm(point - other) <= radius
                    for other, radius in zip(others, own, strict=True)
                )
                for point in points
            ]
        )

    assert (precision, recall) == pytest.approx((within(generated, real), within(real, generated)))
    radii = image_metrics.neighbour_distances(real)
    assert image_metrics.precision_and_recall(real, real, radii) == (1.0, 1.0)
    assert image_metrics.precision_and_recall(generated + 100.0, real, radii) == (0.0, 0.0)


def test_nearest_distances_are_those_of_scipy():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(size=(12, 5)).astype(np.float32), rng.uniform(size=(9, 5)).astype(np.float32)
    np.testing.assert_allclose(
        image_metrics.nearest_distances(x, y),
        scipy.spatial.distance.cdist(x, y).min(axis=1),
        rtol=1e-4,
    )


@pytest.fixture(scope="module")
def pictures():
    """Two classes that anyone tells apart: bright above, or bright below."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 120)
    pixels = rng.integers(0, 80, (120, 8, 8, 1))
    pixels[labels == 0, :4] += 150
    pixels[labels == 1, 4:] += 150
    return Images(pixels.astype(np.uint8), labels, "halves")


@pytest.fixture(scope="module")
def data(pictures):
    return images.prepare(
        jax.random.key(0), pictures, 0, images.QUICK._replace(rows=None, classifier_steps=60)
    )


def test_classifier_learns_and_its_features_have_variance_one(data):
    assert data.classifier.test_accuracy > 0.95
    assert data.classifier.features(data.train, data.shape).var(axis=0).sum() == pytest.approx(
        1.0, rel=1e-4
    )
    assert len(data.classifier.sha256) == 64
    assert data.features.shape == (60, image_classifier.NUM_FEATURES)


def test_metrics_tell_copies_from_noise(data):
    score = images._Scorer(jax.random.key(1), data, images.QUICK)
    same, copies, noise = (
        score(data.held_out),
        score(data.train),
        score(np.random.default_rng(0).uniform(size=data.held_out.shape)),
    )
    assert float(same.sw.value) == pytest.approx(0.0, abs=1e-6)
    assert same.frechet == pytest.approx(0.0, abs=1e-5)
    assert (same.precision, same.recall, same.memorisation) == (1.0, 1.0, pytest.approx(1.0))
    assert copies.memorisation < 0.1
    assert noise.frechet > 10 * copies.frechet
    assert noise.sw.value > copies.sw.value + 3 * noise.sw.standard_error
    assert noise.max_sw.value > np.sqrt(noise.sw.value)
    assert noise.precision < 0.2 < copies.precision
    with pytest.raises(ValueError, match="as many as those held out"):
        score(data.held_out[:-1])


def test_every_method_makes_images_and_flows_start_at_their_noise(key, data):
    sizes = images.QUICK
    model = autoencoder(data.shape, latent_dim=8)
    rows = jnp.asarray(data.train)
    spaces = {
        "ambient": images.ambient(rows, data.shape),
        "latent": images.latent(model, model.init(key), rows),
    }
    for name in images.METHODS:
        space = spaces[name.split()[0]]
        scheme = images.make_scheme(key, name, space, 60, sizes.updates[name], sizes.network)
        family = space.show(scheme.family)
        cloud = jax.eval_shape(
            lambda key, family=family: swjko.sample(family, family.init(key), key, 60), key
        )
        assert cloud.points.shape == (60, 64), name
        if name in ("ambient sw_jko coupling", "ambient sliced_flow", "latent sw_jko particles"):
            start = swjko.sample(scheme.family, scheme.family.init(key), key, 60).points
            assert float(start.mean()) == pytest.approx(space.init_mean, abs=0.1), name
            assert float(start.std()) == pytest.approx(space.init_scale, rel=0.1), name


def test_stages_are_one_run(key):
    scheme = swjko.sliced_flow(
        jax.random.normal(key, (20, 2)), jnp.ones((10, 2)), step_size=0.5, num_projections=4
    )
    whole, stages = images.solve(key, scheme, [6]), images.solve(key, scheme, [2, 4, 6])
    assert list(stages.kept) == [0, 2, 4, 6]
    np.testing.assert_allclose(whole.state.params, stages.state.params, rtol=1e-6)
    np.testing.assert_allclose(whole.infos.energy, stages.infos.energy, rtol=1e-5)


def metrics(frechet, sw, error=0.1):
    estimate = swjko.types.Estimate(jnp.asarray(sw), jnp.asarray(error))
    return report.plain(Metrics(estimate, estimate, frechet, 0.5, 0.5, 1.0))


def test_comparisons_are_ratios_and_differences_with_their_errors():
    names = ["latent sw_jko coupling", "latent sliced_flow"]
    numbers = [((2.0, 1.0), (6.0, 3.0)), ((4.0, 1.0), (8.0, 5.0))]
    seeds = [
        {
            "methods": {
                name: {
                    "metrics": metrics(*pair),
                    "run_seconds": 1.0,
                    "compile_seconds": 1.0,
                    "updates": 3,
                }
                for name, pair in zip(names, pairs, strict=True)
            },
            "references": {
                name: metrics(2.0, 0.0)
                for name in ("autoencoder, held-out", "autoencoder, training")
            },
        }
        for pairs in numbers
    ]
    summary = images.summarise(seeds, names)
    assert summary["rows"][0]["frechet"] == {"mean": 3.0, "deviation": pytest.approx(np.sqrt(2.0))}
    found = summary["comparisons"]
    assert found["Frechet of latent sliced_flow over that of latent sw_jko coupling"][
        "mean"
    ] == pytest.approx(2.5)
    gap = found["SW of latent sliced_flow minus that of latent sw_jko coupling"]
    assert gap["mean"] == pytest.approx(3.0)
    assert gap["standard_error"] == pytest.approx(np.hypot(0.1, 1.0), rel=1e-5)
    assert found["Frechet of latent sw_jko coupling over that of autoencoder, held-out"][
        "mean"
    ] == pytest.approx(1.5)


def test_figures_place_images_and_latents():
    tiles = image_figures.tiled(np.arange(6.0)[:, None].repeat(4, axis=1), (2, 2, 1), (2, 3))
    assert tiles.shape == (6, 9, 1)
    np.testing.assert_array_equal(tiles[::3, ::3, 0], np.arange(6.0).reshape(2, 3))
    ends = np.random.default_rng(0).standard_normal((4, 3))
    path = image_figures.great_circles(ends, count=5)
    np.testing.assert_allclose(path[[0, 4, 5, 9]], ends[[0, 2, 1, 3]], atol=1e-6)


def test_going_on_keeps_seeds_of_the_same_settings_alone(tmp_path):
    path = tmp_path / "images_digits.json"
    settings = {"data": "digits", "updates": images.QUICK.updates}
    assert images._seeds_of(path, settings) == []
    report.write_results("images_digits", settings | {"seeds": [{"seed": 0}]}, tmp_path)
    assert images._seeds_of(path, settings) == [{"seed": 0}]
    with pytest.raises(ValueError, match="other settings \\(updates\\)"):
        images._seeds_of(path, settings | {"updates": images.SMALL.updates})


@pytest.mark.slow
def test_a_quick_run_writes_json_and_figures(tmp_path):
    assert main(["images", "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "images_digits.json").read_text())
    assert [row["method"] for row in content["rows"]] == list(images.METHODS)
    assert all(
        seed["methods"][name]["result"] == "OK"
        for seed in content["seeds"]
        for name in images.METHODS
    )
    assert all(value > 0 for value in content["memory_mb"].values())
    for name in ("sheets", "steps", "scores"):
        assert 0 < (tmp_path / f"images_digits_{name}.png").stat().st_size < 400_000
