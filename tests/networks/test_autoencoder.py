"""The autoencoder: convolutions against XLA's, what a fit reaches and refuses, standardised codes, flows seen through the decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import swjko
from swjko.networks import autoencoder as module
from swjko.networks.autoencoder import autoencoder, decoded, fit_autoencoder
from tests.helpers import constant_bytes

SHAPE = (6, 5, 1)


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def pictures(count=96):
    """Bars of three numbers each: where, how wide, how bright."""
    rng = np.random.default_rng(0)
    at, length, grey = (
        rng.uniform(0, 6, count),
        rng.uniform(1, 3, count),
        rng.uniform(0.4, 1.0, count),
    )
    bars = np.abs(np.arange(6)[None, :] - at[:, None]) < length[:, None]
    return jnp.asarray(
        (grey[:, None] * bars)[:, :, None].repeat(5, axis=2).reshape(count, -1), float
    )


def model_of(shape=SHAPE, **options):
    return autoencoder(shape, **({"latent_dim": 3, "width": 4} | options))


@pytest.fixture(scope="module")
def fitted():
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, 150))
    return fit_autoencoder(
        jax.random.key(0),
        model_of(),
        pictures(),
        optimizer,
        num_steps=150,
        batch_size=48,
        progress=False,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 5), (7, 8)])
def test_patches_make_a_convolution(key, stride, size):
    images, kernel = jax.random.normal(key, (2, *size, 3)), jax.random.normal(key, (3, 3, 3, 4))
    own = module._patches(images, stride) @ kernel.reshape(27, 4)
    layout = ("NHWC", "HWIO", "NHWC")
    other = jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=layout,
        precision="highest",
    )
    np.testing.assert_allclose(own, other, atol=2e-5)


def test_doubling_puts_four_channels_into_two_by_two_pixels():
    image = np.arange(24.0).reshape(1, 2, 3, 4)
    doubled = np.asarray(module._doubled(jnp.asarray(image)))
    assert doubled.shape == (1, 4, 6, 1)
    for i, j in ((0, 0), (1, 2)):
        np.testing.assert_array_equal(
            doubled[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 0].ravel(), image[0, i, j]
        )


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3), (1, 2, 1)])
def test_any_shape_goes_through(key, shape):
    model = model_of(shape)
    rows = jax.random.uniform(key, (2, model.dim))
    params = model.init(key)
    codes = model.encode(params, rows)
    assert codes.shape == (2, 3)
    images = np.asarray(model.decode(params, codes))
    assert images.shape == rows.shape
    assert 0 <= images.min() <= images.max() <= 1
    np.testing.assert_allclose(images, jax.nn.sigmoid(model.logits(params, codes)), rtol=1e-6)


def test_a_fit_reconstructs_what_it_has_not_seen(fitted):
    rows, new = np.asarray(pictures()), np.asarray(pictures(160))[96:]
    model = model_of()

    def cross_entropy(predicted):
        predicted = np.clip(predicted, 1e-6, 1 - 1e-6)
        return -np.mean(new * np.log(predicted) + (1 - new) * np.log(1 - predicted))

    through = np.asarray(model.decode(fitted.params, model.encode(fitted.params, jnp.asarray(new))))
    least, of_mean = (
        cross_entropy(new),
        cross_entropy(np.broadcast_to(rows.mean(axis=0), new.shape)),
    )
    assert cross_entropy(through) - least < 0.5 * (of_mean - least)
    assert fitted.losses.shape == (150,)
    assert fitted.losses[-10:].mean() < 0.8 * fitted.losses[:10].mean()
    assert fitted.seconds > 0


def test_codes_are_standardised_and_images_unchanged_by_that(fitted):
    model, rows = model_of(), pictures()
    codes = np.asarray(model.encode(fitted.params, rows), np.float64)
    np.testing.assert_allclose(codes.mean(axis=0), 0.0, atol=1e-4)
    assert codes.var(axis=0).mean() == pytest.approx(1.0, rel=1e-3)
    raw = fitted.params | {"center": jnp.zeros(3), "scale": jnp.ones(())}
    assert float(fitted.params["scale"]) != 1.0
    images, before = (
        model.decode(params, model.encode(params, rows)) for params in (fitted.params, raw)
    )
    np.testing.assert_allclose(images, before, atol=1e-4)


def test_linear_maps_in_a_row_leave_codes_fewer_axes():
    """What there is to say are three numbers, and there are twelve to say it with."""
    rows, beyond, losses = pictures(), [], []
    for num_linear in (0, 4):
        model = model_of(latent_dim=12, num_linear=num_linear)
        optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 200))
        fit = fit_autoencoder(
            jax.random.key(0), model, rows, optimizer, num_steps=200, batch_size=48, progress=False
        )
        variances = np.linalg.eigvalsh(
            np.cov(np.asarray(model.encode(fit.params, rows), np.float64).T)
        )
        beyond.append(variances[:-3].sum() / variances.sum())
        losses.append(fit.losses[-20:].mean())
        assert len(fit.params["encoder"].get("linear", ())) == num_linear
    assert beyond[1] < 0.1 * beyond[0]
    assert losses[1] < 1.05 * losses[0]


def test_a_fit_goes_on_from_its_checkpoints_bit_for_bit(key, tmp_path):
    options = {"num_steps": 6, "batch_size": 8, "progress": False}
    whole = fit_autoencoder(key, model_of(), pictures(16), optax.adam(1e-2), **options)
    kept = fit_autoencoder(
        key, model_of(), pictures(16), optax.adam(1e-2), **options, checkpoint_dir=tmp_path
    )
    newest = max(tmp_path.glob("step-*.ckpt"))
    assert int(newest.stem.split("-")[1]) == 6
    newest.unlink()
    again = fit_autoencoder(
        key, model_of(), pictures(16), optax.adam(1e-2), **options, checkpoint_dir=tmp_path
    )
    for other in (kept, again):
        np.testing.assert_array_equal(whole.losses, other.losses)
        jax.tree.map(np.testing.assert_array_equal, whole.params, other.params)
    with pytest.raises(swjko.CheckpointError, match="another run"):
        fit_autoencoder(
            key, model_of(), pictures(17), optax.adam(1e-2), **options, checkpoint_dir=tmp_path
        )


def test_a_fit_that_is_not_finite_says_so(key):
    with pytest.raises(swjko.FlowError, match="NON_FINITE"):
        fit_autoencoder(
            key,
            model_of(),
            pictures(16),
            optax.sgd(jnp.inf),
            num_steps=4,
            batch_size=8,
            progress=False,
        )


def test_rows_are_no_constants_of_the_program(key):
    fit = module._Fit(model_of(), pictures(), optax.adam(1e-2), 8)
    state = fit.init(key)
    assert (
        max(
            constant_bytes(lambda fit, key, state: fit.step(key, state), fit, key, state), default=0
        )
        <= 1024
    )


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rows": np.full((16, 29), 0.5, np.float32)},
            ValueError,
            r"rows must have shape \[n 30\].*received \(16, 29\)",
        ),
        (
            {"rows": np.full((16, 30), 2.0, np.float32)},
            ValueError,
            r"rows must lie in \[0, 1\].*Divide",
        ),
        ({"rows": np.full((16, 30), np.nan, np.float32)}, ValueError, "rows must be finite"),
        ({"rows": np.full((16, 30), 1, np.uint8)}, TypeError, "rows must be real floating point"),
        ({"batch_size": 17}, ValueError, "batch_size must not exceed the 16 rows; received 17"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1"),
        ({"optimizer": 1e-3}, TypeError, "optimizer must be an optax GradientTransformation"),
        ({"model": None}, TypeError, "model must be made by"),
    ],
)
def test_bad_fits_are_refused(key, change, error, message):
    arguments = {
        "model": model_of(),
        "rows": pictures(16),
        "optimizer": optax.adam(1e-2),
        "num_steps": 2,
        "batch_size": 8,
    } | change
    with pytest.raises(error, match=message):
        fit_autoencoder(
            key,
            arguments.pop("model"),
            arguments.pop("rows"),
            arguments.pop("optimizer"),
            progress=False,
            **arguments,
        )


@pytest.mark.usefixtures("as_users_see_it")
def test_bad_models_and_codes_are_refused(key):
    for shape in ((8, 8), "mnist", 28):
        with pytest.raises(ValueError, match=r"shape must be \(height, width, channels\)"):
            autoencoder(shape)
    with pytest.raises(ValueError, match=r"shape\[1\] must be at least 1"):
        autoencoder((8, 0, 1))
    with pytest.raises(ValueError, match="latent_dim must be at least 1"):
        autoencoder((8, 8, 1), latent_dim=0)
    with pytest.raises(ValueError, match="num_linear must be at least 0; got -1"):
        autoencoder((8, 8, 1), num_linear=-1)
    with pytest.raises(ValueError, match=r"codes must have shape \[n 3\]"):
        model_of().decode(model_of().init(key), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="family must have dimension 3"):
        decoded(swjko.gaussian(2), model_of(), model_of().init(key))


def test_a_flow_of_codes_is_seen_through_the_decoder(key, fitted):
    model, latents = model_of(), jnp.arange(10)
    points = jax.random.normal(key, (10, 3))
    family = decoded(swjko.particles(points), model, fitted.params)
    assert (family.dim, family.has_density, family.is_finite) == (30, False, True)
    np.testing.assert_allclose(
        family.push(points, latents).points, model.decode(fitted.params, points), rtol=1e-6
    )
    gaussian = decoded(swjko.gaussian(3), model, fitted.params)
    assert swjko.sample(gaussian, gaussian.init(key), key, 4).points.shape == (4, 30)
