"""Figures hold the data they are given, need no display, and can be saved."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

import swjko
from swjko import plots
from swjko.schemes.base import Info


@pytest.fixture
def history():
    time = np.array([0.1, 0.2, 0.3])
    return Info(
        time,
        np.array([3.0, 2.0, 1.5]),
        np.array([0.5, 0.2, 0.1]),
        np.array([3.5, 2.2, 1.6]),
        time,
        np.zeros(3, np.int32),
    )


def _log_prob(x):
    return -0.5 * jnp.sum(x**2)


def _points(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def _is_drawn(figure, tmp_path):
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    return (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options", [{}, {"log_prob": _log_prob}, {"target": _points(30, 3), "target_name": "data"}]
)
def test_cloud_shows_its_points(options, tmp_path):
    points = _points(50, 3)
    figure = plots.cloud(points, names=("a", "b"), **options)
    (axis,) = figure.axes
    offsets = [np.asarray(collection.get_offsets()) for collection in axis.collections]
    assert any(part.shape == (50, 2) and np.allclose(part, points[:, :2]) for part in offsets)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("a", "b")
    assert _is_drawn(figure, tmp_path)


def test_corner_shows_each_coordinate_and_each_pair(tmp_path):
    points, target = _points(400, 4), _points(200, 4) + 1.0
    figure = plots.corner(points, target=target, coordinates=(0, 3, 2), names=("a", "b", "c"))
    grid = np.reshape(figure.axes, (3, 3))
    for row, column in np.ndindex(3, 3):
        axis, pair = grid[row, column], [(0, 3, 2)[column], (0, 3, 2)[row]]
        if column > row:
            assert not axis.axison
        elif column < row:
            assert np.allclose(axis.collections[-1].get_offsets(), points[:, pair])
            assert np.allclose(axis.collections[0].get_offsets(), target[:, pair])
        else:
            heights, edges = np.histogram(points[:, pair[0]], bins=40, density=True)
            bars = axis.patches[40:]
            np.testing.assert_allclose([bar.get_height() for bar in bars], heights)
            np.testing.assert_allclose([bar.get_x() for bar in bars], edges[:-1])
    assert [axis.get_xlabel() for axis in grid[2]] == ["a", "b", "c"]
    assert [axis.get_ylabel() for axis in grid[:, 0]] == ["", "b", "c"]
    assert _is_drawn(figure, tmp_path)
    assert len(plots.corner(_points(30, 8)).axes) == 36
    assert len(plots.corner(_points(30, 1)).axes) == 1


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (np.zeros(5), {}, r"points must have rank 2, .* got shape \(5,\)"),
        (np.zeros((5, 2)), {"coordinates": (0, 2)}, r"coordinates must be .* 0 to 1.*\[0, 2\]"),
        (np.zeros((5, 2)), {"coordinates": ()}, r"at least one; got \[\]"),
        (np.zeros((5, 2)), {"names": ("a",)}, "names must have one name for each of 2; got 1"),
        (np.zeros((5, 2)), {"target": np.zeros((5, 3))}, r"target must have shape \[points, 2\]"),
    ],
)
def test_corners_that_cannot_be_are_refused(points, options, message):
    with pytest.raises(ValueError, match=message):
        plots.corner(points, **options)


def test_colours_are_those_of_the_style(history):
    with matplotlib.rc_context(
        {
            "axes.prop_cycle": matplotlib.cycler(color=["#010203", "#040506"]),
            "text.color": "#070809",
        }
    ):
        dots = plots.cloud(_points(9, 2), target=_points(9, 2)).axes[0].collections
        lines = plots.energy(history, exact=1.0).axes[0].lines
        colors = [to_hex(part.get_facecolor()[0]) for part in dots]
        assert colors == ["#040506", "#010203"]
        assert [to_hex(line.get_color()) for line in lines] == ["#010203", "#070809"]


def test_notebooks_show_figures_without_a_magic_command(history):
    figure = plots.energy(history)
    assert DisplayFormatter().format(figure)[0]["image/png"].startswith(b"\x89PNG")


def test_contours_stand_where_the_density_does():
    """Levels at fractions of the peak f: a standard Gaussian has them at radius sqrt(-2 log f)."""
    figure = plots.cloud(_points(10, 2), log_prob=_log_prob, limits=(-3.0, 3.0, -3.0, 3.0))
    contours = next(part for part in figure.axes[0].collections if hasattr(part, "levels"))
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        radii = np.linalg.norm(path.vertices, axis=1)
        np.testing.assert_allclose(radii, np.sqrt(-2 * np.log(level)), rtol=0.02)


def test_cloud_of_one_dimension_is_a_histogram(tmp_path):
    figure = plots.cloud(
        _points(500, 1),
        target=_points(200, 1),
        log_prob=lambda x: _log_prob(x) - 0.5 * jnp.log(2 * jnp.pi),
    )
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


@pytest.mark.parametrize(
    ("exact", "levels"),
    [(1.0, [1, 1, 1, 1]), (np.array([4.0, 2.5, 1.8, 1.2]), [4.0, 2.5, 1.8, 1.2])],
)
def test_energy_draws_history_and_exact_values(history, exact, levels):
    axis = plots.energy(history, start=4.0, exact=exact, unit="nats").axes[0]
    flow, line = axis.lines
    np.testing.assert_allclose(flow.get_xydata(), [[0, 4.0], [0.1, 3.0], [0.2, 2.0], [0.3, 1.5]])
    np.testing.assert_allclose(line.get_ydata(), levels)
    assert "nats" in axis.get_ylabel()
    assert "time" in axis.get_xlabel()


def test_energy_has_a_band_of_two_standard_errors(history):
    estimate = swjko.Estimate(np.array([3.1, 2.1, 1.4]), np.array([0.1, 0.2, 0.05]))
    axis = plots.energy(
        history, estimate=estimate, start=swjko.Estimate(np.array(4.0), np.array(0.5)), exact=1.0
    ).axes[0]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [4.0, 3.1, 2.1, 1.4])
    (band,) = axis.collections
    vertices = band.get_paths()[0].vertices
    for time, low, high in ((0.0, 3.0, 5.0), (0.2, 1.7, 2.5), (0.3, 1.3, 1.5)):
        at = vertices[np.isclose(vertices[:, 0], time), 1]
        np.testing.assert_allclose([at.min(), at.max()], [low, high])
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert words == ["flow, $\\pm$ 2 standard errors", "flow", "exact"]


def test_energies_of_several_flows_share_an_axis(history):
    axis = plots.energy(history, name="a").axes[0]
    plots.energy(history, name="b", color="C1", axis=axis)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    assert not axis.collections


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"estimate": swjko.Estimate(np.zeros(2), np.zeros(2))},
            "estimate must have one value for each of 3 steps",
        ),
        ({"exact": np.zeros(4)}, "exact must be one number, or one for each of 3 times"),
    ],
)
def test_energies_that_do_not_fit_are_refused(history, options, message):
    with pytest.raises(ValueError, match=message):
        plots.energy(history, **options)


def test_movie_moves_its_points_and_holds_the_last(tmp_path):
    points = np.cumsum(_points(4, 30, 2), axis=0)
    figure = plots.movie(
        points,
        np.array([0.0, 0.1, 0.2, 0.3]),
        tmp_path / "a.gif",
        frames_per_second=10.0,
        dpi=50.0,
        target=_points(20, 2),
    )
    with Image.open(tmp_path / "a.gif") as picture:
        frames, durations = [], []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB"), float))
            durations.append(picture.info["duration"])
    assert durations == [100, 100, 100, 1600]
    assert all(np.abs(one - other).max() > 100 for one, other in itertools.pairwise(frames))
    (axis,) = figure.axes
    dots = next(part for part in axis.collections if part.get_label() == "flow")
    np.testing.assert_allclose(dots.get_offsets(), points[-1])
    assert (axis.get_title(), axis.get_xlabel()) == ("t = 0.30", "$x_1$")


@pytest.mark.slow
def test_movie_is_kept_small(tmp_path):
    points, path = _points(3, 200, 2), tmp_path / "a.gif"
    plots.movie(points, np.arange(3.0), path, dpi=120.0)
    large = path.stat().st_size
    plots.movie(points, np.arange(3.0), path, dpi=120.0, max_bytes=large // 2)
    assert path.stat().st_size <= large // 2
    with pytest.raises(ValueError, match="max_bytes must be at least"):
        plots.movie(points, np.arange(3.0), tmp_path / "b.gif", max_bytes=1000)
    assert not (tmp_path / "b.gif").exists()


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("points", "times", "path", "message"),
    [
        (
            np.zeros((5, 2)),
            np.zeros(5),
            "a.gif",
            r"points must have rank 3, .* got shape \(5, 2\)",
        ),
        (
            np.zeros((2, 5, 2)),
            np.zeros(3),
            "a.gif",
            "times must have one value for each of 2 clouds",
        ),
        (np.zeros((2, 5, 1)), np.zeros(2), "a.gif", "points must have at least two coordinates"),
        (np.zeros((2, 5, 2)), np.zeros(2), "a.mp4", "path must end in .gif; got 'a.mp4'"),
    ],
)
def test_movies_that_cannot_be_are_refused(points, times, path, message):
    with pytest.raises(ValueError, match=message):
        plots.movie(points, times, path)


def test_axes_that_are_given_are_drawn_into(history, tmp_path):
    figure = Figure()
    axes = figure.subplots(1, 3)
    assert plots.energy(history, log=True, axis=axes[0]) is figure
    assert plots.proximity(history, axis=axes[1]) is figure
    assert plots.cloud(_points(10, 2), axis=axes[2]) is figure
    assert axes[0].get_yscale() == "log"
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), history.proximity)
    assert _is_drawn(figure, tmp_path)


def test_many_flows_have_a_line_each(history):
    """Energies [flows steps] are not drawn transposed, also with as many flows as steps."""
    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1, leaf + 2]), history)
    axis = plots.energy(many, start=np.array([9.0, 8.0, 7.0]), exact=0.0).axes[0]
    lines = axis.lines[:3]
    for at, line in enumerate(lines):
        np.testing.assert_allclose(line.get_ydata(), [9.0 - at, *many.energy[at]])
        np.testing.assert_allclose(line.get_xdata(), [0.0, *many.time[at]])
    assert axis.get_legend_handles_labels()[1] == ["flows (3)", "exact"]
    assert len(plots.progress(many).axes[1].lines) == 3


def test_log_axis_shows_noise_below_zero(history):
    axis = plots.energy(history._replace(energy=np.array([1.0, 1e-3, -1e-4])), log=True).axes[0]
    assert axis.get_yscale() == "symlog"
    assert axis.get_ylim()[0] < -1e-4


def test_proximity_of_zero_stays_on_a_linear_axis(history):
    assert plots.proximity(history._replace(proximity=np.zeros(3))).axes[0].get_yscale() == "linear"
    assert len(plots.progress(history).axes) == 2


@pytest.mark.slow
def test_pyplot_stays_untouched_and_matplotlib_is_lazy(tmp_path):
    code = (
        "import sys, numpy as np; from swjko import plots; assert 'matplotlib' not in sys.modules; "
        "plots.movie(np.zeros((1, 3, 2)), np.zeros(1), sys.argv[1]); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.gif")], check=True)


def test_missing_matplotlib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'swjko\[cli\]'"):
        plots.cloud(np.zeros((3, 2)))
