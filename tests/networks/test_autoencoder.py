"""The autoencoder: its convolutions, what a fit reaches, standardised codes, decoded flows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import constant_bytes

import swjko
from swjko.autoencoder import FitScheme, autoencoder, decoded, fit_autoencoder
from swjko.networks import autoencoder as module


def pictures(count=96):
    """Bars of three numbers each: position, width, brightness."""
    rng = np.random.default_rng(0)
    at, length, grey = (rng.uniform(low, high, count) for low, high in ((0, 6), (1, 3), (0.4, 1.0)))
    bars = grey[:, None] * (np.abs(np.arange(6)[None, :] - at[:, None]) < length[:, None])
    return jnp.asarray(bars[:, :, None].repeat(5, axis=2).reshape(count, -1), float)


def model_of(shape=(6, 5, 1), **options):
    return autoencoder(shape, **({"latent_dim": 3, "width": 4} | options))


def fit(model=None, rows=None, optimizer=None, *, key=None, **options):
    """A fit of small pictures without a progress bar, and with the default of each argument."""
    return fit_autoencoder(
        jax.random.key(0) if key is None else key,
        model_of() if model is None else model,
        pictures(16) if rows is None else rows,
        optax.adam(1e-2) if optimizer is None else optimizer,
        **({"num_steps": 6, "batch_size": 8, "progress": False} | options),
    )


@pytest.fixture(scope="module")
def fitted():
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, 150))
    return fit(rows=pictures(), optimizer=optimizer, num_steps=150, batch_size=48)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 5), (7, 8)])
def test_patches_make_a_convolution(key, stride, size):
    images, kernel = jax.random.normal(key, (2, *size, 3)), jax.random.normal(key, (3, 3, 3, 4))
    own = module._patches(images, stride) @ kernel.reshape(27, 4)
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}
    other = jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), ((1, 1), (1, 1)), **layout
    )
    np.testing.assert_allclose(own, other, atol=2e-5)


def test_doubling_puts_four_channels_into_two_by_two_pixels():
    image = np.arange(24.0).reshape(1, 2, 3, 4)
    doubled = np.asarray(module._doubled(jnp.asarray(image)))
    assert doubled.shape == (1, 4, 6, 1)
    for i, j in ((0, 0), (1, 2)):
        block = doubled[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 0]
        np.testing.assert_array_equal(block.ravel(), image[0, i, j])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3), (1, 2, 1)])
def test_images_of_any_shape_are_encoded_and_decoded(key, shape):
    model = model_of(shape)
    rows, params = jax.random.uniform(key, (2, model.dim)), model.init(key)
    codes = model.encode(params, rows)
    assert codes.shape == (2, 3)
    images = np.asarray(model.decode(params, codes))
    assert images.shape == rows.shape
    assert 0 <= images.min() <= images.max() <= 1
    np.testing.assert_allclose(images, jax.nn.sigmoid(model.logits(params, codes)), rtol=1e-6)


@pytest.mark.slow
def test_a_fit_reconstructs_new_images(fitted):
    rows, new, model = np.asarray(pictures()), np.asarray(pictures(160))[96:], model_of()

    def cross_entropy(predicted):
        predicted = np.clip(predicted, 1e-6, 1 - 1e-6)
        return -np.mean(new * np.log(predicted) + (1 - new) * np.log(1 - predicted))

    through = np.asarray(model.decode(fitted.params, model.encode(fitted.params, jnp.asarray(new))))
    least = cross_entropy(new)
    of_mean = cross_entropy(np.broadcast_to(rows.mean(axis=0), new.shape))
    assert cross_entropy(through) - least < 0.5 * (of_mean - least)
    assert fitted.losses.shape == (150,)
    assert fitted.losses[-10:].mean() < 0.8 * fitted.losses[:10].mean()
    assert fitted.seconds > 0


@pytest.mark.slow
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


@pytest.mark.slow
def test_linear_maps_leave_codes_fewer_axes():
    """The images have three degrees of freedom, and the codes twelve axes."""
    rows, beyond, losses = pictures(), [], []
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 200))
    for num_linear in (0, 4):
        model = model_of(latent_dim=12, num_linear=num_linear)
        done = fit(model, rows, optimizer, num_steps=200, batch_size=48)
        codes = np.asarray(model.encode(done.params, rows), np.float64)
        variances = np.linalg.eigvalsh(np.cov(codes.T))
        beyond.append(variances[:-3].sum() / variances.sum())
        losses.append(done.losses[-20:].mean())
        assert len(done.params["encoder"].get("linear", ())) == num_linear
    assert beyond[1] < 0.1 * beyond[0]
    assert losses[1] < 1.05 * losses[0]


@pytest.mark.slow
def test_a_fit_resumes_from_its_checkpoints_bit_for_bit(tmp_path):
    whole, kept = fit(), fit(checkpoint_dir=tmp_path)
    newest = max(tmp_path.glob("step-*.ckpt"))
    assert int(newest.stem.split("-")[1]) == 6
    newest.unlink()
    for other in (kept, fit(checkpoint_dir=tmp_path)):
        np.testing.assert_array_equal(whole.losses, other.losses)
        jax.tree.map(np.testing.assert_array_equal, whole.params, other.params)
    with pytest.raises(swjko.CheckpointError, match="another run"):
        fit(rows=pictures(17), checkpoint_dir=tmp_path)


@pytest.mark.slow
def test_a_fit_that_is_not_finite_raises():
    with pytest.raises(swjko.FlowError, match="NON_FINITE"):
        fit(optimizer=optax.sgd(jnp.inf))


def test_rows_are_no_constants_of_the_program(key):
    scheme = FitScheme(model_of(), pictures(), optax.adam(1e-2), 8)
    arguments = (scheme, key, scheme.init(key))
    sizes = constant_bytes(lambda scheme, key, state: scheme.step(key, state), *arguments)
    assert max(sizes, default=0) <= 1024


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rows": np.full((16, 29), 0.5, np.float32)},
            ValueError,
            r"rows must have shape \[n 30\].*got \(16, 29\)",
        ),
        ({"rows": np.full((16, 30), 2.0, np.float32)}, ValueError, r"lie in \[0, 1\].*Divide"),
        ({"rows": np.full((16, 30), np.nan, np.float32)}, ValueError, "rows must be finite"),
        ({"rows": np.full((16, 30), 1, np.uint8)}, TypeError, "rows must be real floating point"),
        ({"batch_size": 17}, ValueError, "batch_size must not exceed the 16 rows; got 17"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1"),
        ({"optimizer": 1e-3}, TypeError, "optimizer.* must be an optax"),
        ({"model": "mnist"}, TypeError, "model must be made by"),
    ],
)
def test_bad_fits_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        fit(**change)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda shape=shape: autoencoder(shape), r"shape must be \(height, width, channels\)")
            for shape in ((8, 8), "mnist", 28)
        ),
        (lambda: autoencoder((8, 0, 1)), r"shape\[1\] must be at least 1"),
        (lambda: model_of(latent_dim=0), "latent_dim must be at least 1"),
        (lambda: model_of(num_linear=-1), "num_linear must be at least 0; got -1"),
        (lambda: model_of().decode({}, jnp.zeros((2, 4))), r"codes must have shape \[n 3\]"),
        (lambda: decoded(swjko.gaussian(2), model_of(), {}), "family must have dimension 3"),
    ],
)
def test_bad_models_and_codes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_a_flow_of_codes_is_decoded(key, fitted):
    model, latents = model_of(), jnp.arange(10)
    points = jax.random.normal(key, (10, 3))
    family = decoded(swjko.particles(points), model, fitted.params)
    assert (family.dim, family.has_density, family.is_finite) == (30, False, True)
    expected = model.decode(fitted.params, points)
    np.testing.assert_allclose(family.push(points, latents).points, expected, rtol=1e-6)
    gaussian = decoded(swjko.gaussian(3), model, fitted.params)
    assert swjko.sample(gaussian, gaussian.init(key), key, 4).points.shape == (4, 30)
