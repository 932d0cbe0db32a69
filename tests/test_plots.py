"""Figures hold the data they are given, need no display, and can be saved."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from swjko import plots
from swjko.scheme import Info


@pytest.fixture
def history():
    time = np.array([0.1, 0.2, 0.3])
    return Info(time, np.array([3.0, 2.0, 1.5]), np.array([0.5, 0.2, 0.1]), np.array([3.5, 2.2, 1.6]), time, np.zeros(3, np.int32))


def _log_prob(x):
    return -0.5 * jnp.sum(x**2)


def _points(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def _is_drawn(figure, tmp_path):
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    return (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [{}, {"log_prob": _log_prob}, {"target": _points(30, 3), "target_name": "data"}])
def test_cloud_shows_its_points(options, tmp_path):
    points = _points(50, 3)
    figure = plots.cloud(points, names=("a", "b"), **options)
    (axis,) = figure.axes
    offsets = [np.asarray(collection.get_offsets()) for collection in axis.collections]
    assert any(part.shape == (50, 2) and np.allclose(part, points[:, :2]) for part in offsets)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("a", "b")
    assert _is_drawn(figure, tmp_path)


def test_contours_stand_where_the_density_does():
    """Levels at fractions of the peak f: a standard Gaussian has them at radius sqrt(-2 log f)."""
    figure = plots.cloud(_points(10, 2), log_prob=_log_prob, limits=(-3.0, 3.0, -3.0, 3.0))
    contours = next(part for part in figure.axes[0].collections if hasattr(part, "levels"))
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        radii = np.linalg.norm(path.vertices, axis=1)
        np.testing.assert_allclose(radii, np.sqrt(-2 * np.log(level)), rtol=0.02)


def test_cloud_of_one_dimension_is_a_histogram(tmp_path):
    figure = plots.cloud(_points(500, 1), target=_points(200, 1), log_prob=lambda x: _log_prob(x) - 0.5 * jnp.log(2 * jnp.pi))
    assert figure.axes[0].get_ylabel() == "density"
    (line,) = figure.axes[0].lines
    x, y = line.get_data()
    np.testing.assert_allclose(y, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), rtol=1e-4)
    assert _is_drawn(figure, tmp_path)


def test_clouds_name_their_times(tmp_path):
    figure = plots.clouds(_points(3, 40, 2), np.array([0.0, 0.25, 0.5]), target=_points(30, 2))
    assert [axis.get_title() for axis in figure.axes] == ["t = 0", "t = 0.25", "t = 0.5"]
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    assert _is_drawn(figure, tmp_path)


@pytest.mark.parametrize(("exact", "levels"), [(1.0, [1, 1, 1, 1]), (np.array([4.0, 2.5, 1.8, 1.2]), [4.0, 2.5, 1.8, 1.2])])
def test_energy_draws_history_and_exact_values(history, exact, levels):
    axis = plots.energy(history, start=4.0, exact=exact, unit="nats").axes[0]
    flow, line = axis.lines
    np.testing.assert_allclose(flow.get_xydata(), [[0, 4.0], [0.1, 3.0], [0.2, 2.0], [0.3, 1.5]])
    np.testing.assert_allclose(line.get_ydata(), levels)
    assert "nats" in axis.get_ylabel()
    assert "time" in axis.get_xlabel()


def test_axes_that_are_given_are_drawn_into(history, tmp_path):
    figure = Figure()
    axes = figure.subplots(1, 3)
    assert plots.energy(history, log=True, axis=axes[0]) is figure
    assert plots.proximity(history, axis=axes[1]) is figure
    assert plots.cloud(_points(10, 2), axis=axes[2]) is figure
    assert axes[0].get_yscale() == "log"
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), history.proximity)
    assert _is_drawn(figure, tmp_path)


def test_proximity_of_zero_stays_on_a_linear_axis(history):
    assert plots.proximity(history._replace(proximity=np.zeros(3))).axes[0].get_yscale() == "linear"
    assert len(plots.progress(history).axes) == 2


def test_pyplot_stays_untouched_and_matplotlib_is_lazy():
    code = (
        "import sys, numpy as np; from swjko import plots; assert 'matplotlib' not in sys.modules; "
        "plots.cloud(np.zeros((3, 2))); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_matplotlib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'swjko\[cli\]'"):
        plots.cloud(np.zeros((3, 2)))
