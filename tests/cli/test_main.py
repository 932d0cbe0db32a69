"""The command line in tiny settings: what it prints, writes, refuses and returns."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from helpers import run_cli
from pages import ROOT, blocks, run
from PIL import Image

import swjko
from swjko import flows, problems
from swjko.cli import classes, codes, generate_choices, match, report, scores
from swjko.cli.main import main

_TINY = ["--steps", "2", "--inner-steps", "2", "--samples", "16"]
_TINY += ["--projections", "4", "--no-progress"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """All three problems in one directory: (directory, exit code)."""
    out = tmp_path_factory.mktemp("whole")
    return out, main([*_TINY, "--seed", "3", "--out", str(out)])


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 2)) * [1.0, 50.0] + [3.0, 0.0]
    labels = np.where(features[:, 0] + rng.standard_normal(60) > 3.0, "sick", "well")
    path = tmp_path / "patients.csv"
    rows = [f"{a},{label},{b}" for (a, b), label in zip(features, labels, strict=True)]
    path.write_text("\n".join(["age,state,dose", *rows]) + "\n")
    return path


def test_without_subcommand_all_three_run_and_report(whole_run):
    out, code = whole_run
    assert code == 0
    for name, dim in (("fokker-planck", 2), ("posterior", 32), ("match", 2)):
        report = json.loads((out / name / "report.json").read_text())
        assert (report["problem"], report["dim"], report["result"]) == (name, dim, "OK")
        assert report["config"]["seed"] == 3
        assert report["config"]["samples"] == 16
        assert report["config"]["inner_steps"] == 2
        assert set(report["versions"]) == {"swjko", "jax", "python"}
        assert report["versions"]["jax"] == jax.__version__
        assert report["device"]
        np.testing.assert_allclose(
            report["history"]["time"], report["config"]["step_size"] * np.array([1, 2]), rtol=1e-5
        )
        assert all(
            len(report["history"][field]) == 2
            for field in ("energy", "proximity", "objective", "gradient_norm")
        )
        assert report["error"] == pytest.approx(
            report["energy_end"]["value"] - report["reference"]["value"]
        )
        for figure in ("clouds", "energy"):
            assert (out / name / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert report["verdict"]["fit"] in ("good", "poor", "unknown")
        files = {path.name for path in (out / name).iterdir()} - {"marginals.csv"}
        pictures = {"clouds.png", "energy.png"}
        assert files == pictures | {"draws.npz", "parameters.npz", "report.json"}


@pytest.mark.slow
def test_code_of_the_page_loads_the_files(whole_run, tmp_path, monkeypatch):
    """Draws of the restored flow, mapped to units of the data, have the moments of draws.npz."""
    out, _ = whole_run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(out)
    codes = [block.code for block in blocks((ROOT / "docs/howto/tables.md").read_text())]
    names = run([f"row = [0.0] * 30\n{codes[0]}", *codes[1:]], "howto/tables.md")
    assert names["probability"].shape == (4096,)
    file, draws = names["file"], names["draws"]["points"]
    z = swjko.sample(names["family"], names["params"], jax.random.key(9), 4096).points
    points = np.asarray(z) @ file["matrix"].T + file["shift"]
    difference = points.mean(0) - draws.mean(0)
    assert np.all(np.abs(difference) < 6 * draws.std(0) / np.sqrt(2048))


def test_divergences_are_reported(whole_run):
    figures = json.loads((whole_run[0] / "fokker-planck" / "report.json").read_text())["figures"]
    for law in ("the stationary law", "the exact SW-JKO step"):
        estimate = figures[f"SymKL against {law}"]
        logarithm = figures[f"log10 SymKL against {law}, or of its standard error where larger"]
        assert logarithm == pytest.approx(np.log10(estimate["value"]), abs=1e-3)


def test_energy_at_the_start_is_that_of_a_standard_normal(whole_run):
    report = json.loads((whole_run[0] / "fokker-planck" / "report.json").read_text())
    problem = problems.gaussian_target(3, 2)
    a, c = (problem.precision, problem.center)
    exact = (np.trace(a) + c @ a @ c - 2 - np.linalg.slogdet(a)[1]) / 2
    # 16 clouds of 16 points: the standard error itself is known to a fifth.
    assert (
        abs(report["energy_start"]["value"] - exact) < 5 * report["energy_start"]["standard_error"]
    )


def test_results_are_not_overwritten_in_silence(whole_run, capsys):
    out, _ = whole_run
    before = (out / "match" / "report.json").stat().st_mtime_ns
    for arguments in ([], ["match"]):
        capsys.readouterr()
        assert main([*arguments, *_TINY, "--out", str(out)]) == 2
        _expect_one_line(capsys, "pass --overwrite or another --out")
    assert (out / "match" / "report.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_report_that_appears_during_the_run_is_left(flags, tmp_path, monkeypatch, capsys):
    path, real = tmp_path / "match" / "report.json", report.provenance

    def provenance(solution):
        path.write_text("of another run")
        return real(solution)

    monkeypatch.setattr(report, "provenance", provenance)
    assert main(["match", *_TINY, *flags, "--out", str(tmp_path)]) == (0 if flags else 2)
    if not flags:
        _expect_one_line(capsys, f"{path} is in the way: it is a file that was written meanwhile")
    assert (path.read_text() == "of another run") == (not flags)
    assert not list(path.parent.glob("*.tmp"))


@pytest.mark.slow
def test_overwrite_replaces_and_prints_a_table(whole_run, tmp_path, capsys):
    """With options before the subcommand, and points in one dimension."""
    out, _ = whole_run
    np.save(tmp_path / "x.npy", np.random.default_rng(0).exponential(3.0, (40, 1)) + 100.0)
    assert (
        run_cli(f"--seed 1 --out {out} --overwrite match --data {tmp_path / 'x.npy'}", *_TINY) == 0
    )
    printed = capsys.readouterr().out
    assert "SW_2^2/2 of 8 points of the target to them: " in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["match", "1", "2"] in [row[:3] for row in rows]
    report = json.loads((out / "match" / "report.json").read_text())
    assert (report["dim"], report["config"]["seed"]) == (1, 1)
    assert (report["figures"]["points of the target"], report["figures"]["points held out"]) == (
        32,
        8,
    )
    assert (out / "match" / "clouds.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_posterior_of_a_table(table, tmp_path, capsys):
    assert run_cli(f"posterior --data {table} --label state --out {tmp_path / 'runs'}", *_TINY) == 0
    report = json.loads((tmp_path / "runs" / "posterior" / "report.json").read_text())
    draws = np.load(tmp_path / "runs" / "posterior" / "draws.npz")
    assert list(draws["names"]) == ["weight of age", "weight of dose", "intercept", "log alpha"]
    assert draws["points"].shape == (len(draws["log_density"]), 4)
    assert report["figures"]["label +1 is"] == "well"
    assert (report["figures"]["rows for training"], report["figures"]["rows held out"]) == (48, 12)
    printed = capsys.readouterr().out
    for shown in (
        "held-out accuracy:",
        "held-out log-likelihood:",
        "log-likelihood of LogisticRegressionCV:",
        "standard_deviation",
    ):
        assert shown in printed


def test_help_is_shown(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("fokker-planck", "posterior", "match", "generate", "--overwrite", "report.json"):
        assert word in shown
    assert main(["match", "--help"]) == 0
    assert "--projections" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fokker-planck", "--dim", "0"], "--dim: must be a whole number from 1"),
        (["fokker-planck", "--steps", "0"], "--steps: must be a whole number"),
        (["match", "--step-size", "-1"], "--step-size: must be a positive number"),
        (["--step-size", "nan"], "--step-size: must be a positive number"),
        (["--samples", "many"], "--samples: must be a whole number"),
        (["--seed", "-1"], "--seed: must be a whole number from 0"),
        (["swim"], "invalid choice: 'swim'"),
        (["posterior", "--wings"], "unrecognized arguments: --wings"),
        (
            ["posterior", "--data", "x.csv"],
            "--data FILE.csv and --label COLUMN must be given together",
        ),
        (["posterior", "--data", "missing.csv", "--label", "y"], "missing.csv: cannot be read"),
        (["posterior", "--data", "patients.csv", "--label", "height"], "no column 'height'"),
        (["posterior", "--data", "patients.csv", "--label", "dose"], "two classes"),
        (["posterior", "--data", "patients.csv", "--label", "age"], "column 'age'"),
        (["match", "--data", "patients.csv"], "line 2, column 'state'"),
        (["match", "--data", "missing.npy"], "missing.npy"),
        (["match", "--data", "pickled.npy"], "not a readable .npy"),
        (["match", "--dim", "65"], "--dim must be at most 64"),
        (["match", "--out", "patients.csv"], "not a writable directory"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    arguments, message, table, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    np.save("pickled.npy", np.array([{}]), allow_pickle=True)
    assert main([*arguments, "--no-progress"]) == 2
    _expect_one_line(capsys, message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("module", ["matplotlib", "sklearn"])
def test_a_missing_extra_is_named(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["fokker-planck", "--out", str(tmp_path)]) == 2
    _expect_one_line(capsys, f"needs {module}. Run: pip install 'swjko[cli]'")


@pytest.mark.slow
def test_a_failed_flow_is_one_line_and_code_1(tmp_path, capsys):
    assert (
        run_cli(
            f"fokker-planck --dim 1 --no-progress --step-size 1e-37 --out {tmp_path}", *_TINY[:-1]
        )
        == 1
    )
    _expect_one_line(capsys, "the flow stopped after step 0")


_SHEET = [*_TINY, "--grid", "3"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 30 pictures of 5 x 4 pixels, dark at the left."""
    folder = tmp_path_factory.mktemp("pictures")
    levels = np.clip(
        np.linspace(0, 255, 4) + np.random.default_rng(0).normal(0, 20, (30, 5, 4)), 0, 255
    ).astype(np.uint8)
    for at, picture in enumerate(levels):
        Image.fromarray(picture).save(folder / f"{at:02}.png")
    return folder


@pytest.fixture(scope="module")
def generated(pictures, tmp_path_factory):
    """A sheet of these, of a run with checkpoints: (directory, exit code)."""
    out = tmp_path_factory.mktemp("generated")
    arguments = [
        "generate",
        "--data",
        str(pictures),
        "--checkpoint-dir",
        str(out / "kept"),
        "--out",
        str(out / "new" / "sheet.png"),
    ]
    return out, main([*arguments, *_SHEET])


@pytest.mark.slow
def test_generate_draws_samples_beside_their_nearest_images(generated, pictures):
    out, code = generated
    assert code == 0
    assert sorted(path.name for path in (out / "new").iterdir()) == [
        "draws.npz",
        "report.json",
        "sheet.png",
    ]
    report = json.loads((out / "new" / "report.json").read_text())
    assert (report["problem"], report["dim"], report["result"]) == ("generate", 20, "OK")
    assert report["config"]["shape"] == [5, 4, 1]
    assert (
        report["config"]["batch_size"],
        report["figures"]["images for the flow"],
        report["figures"]["images held out"],
    ) == (24, 24, 6)
    assert len(report["history"]["energy"]) == 2
    sheet = np.asarray(Image.open(out / "new" / "sheet.png"))
    factor, gap = (8, 4)
    height, width = (5 * factor + gap, 4 * factor + gap)
    assert sheet.shape == (gap + 3 * height, gap + 6 * width + 2 * gap)
    # Each enlarged picture on the right is one of the folder, the nearest to that on its left.
    folder = np.stack([np.asarray(Image.open(path)) for path in sorted(pictures.iterdir())]).astype(
        float
    )
    distances = []
    for row, column in np.ndindex(3, 3):
        top, left = (gap + row * height, gap + column * width)
        shown, near = (
            sheet[top : top + 5 * factor : factor, at : at + 4 * factor : factor]
            for at in (left, left + 3 * width + 2 * gap)
        )
        assert np.any(np.all(folder == near, axis=(1, 2)))
        distances.append(np.sqrt(np.sum((shown - near.astype(float)) ** 2)) / 255)
    mean = report["figures"]["distance of a sample to the nearest image, mean"]
    assert mean == pytest.approx(np.mean(distances), rel=0.02)


@pytest.mark.slow
def test_generate_goes_on_from_its_checkpoints(generated, pictures, tmp_path, capsys):
    out, _ = generated
    arguments = ["generate", "--data", str(pictures), "--checkpoint-dir", str(out / "kept")]
    assert main([*arguments, *_SHEET, "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (out / "new" / "sheet.png").read_bytes()
    assert json.loads((tmp_path / "report.json").read_text())["seconds"]["run"] == 0.0
    capsys.readouterr()
    other = ["--samples", "17", "--out", str(tmp_path / "o" / "s.png")]
    assert main([*arguments, *_SHEET, *other]) == 2
    _expect_one_line(capsys, "holds another run")


@pytest.mark.slow
def test_generate_overwrites_nothing_in_silence(generated, pictures, tmp_path, capsys):
    out, _ = generated
    before = (out / "new" / "sheet.png").read_bytes()
    assert main(["generate", "--out", str(out / "new" / "sheet.png"), "--no-progress"]) == 2
    _expect_one_line(capsys, "sheet.png exists; pass --overwrite or another --out")
    assert main(["generate", "--out", str(out / "new" / "other.png"), "--no-progress"]) == 2
    _expect_one_line(capsys, "report.json exists; pass --overwrite or another --out")
    assert (out / "new" / "sheet.png").read_bytes() == before
    # Options before the subcommand.
    (tmp_path / "s.png").write_bytes(b"")
    assert (
        run_cli(f"--out {tmp_path / 's.png'} --overwrite generate --data {pictures}", *_SHEET) == 0
    )
    assert (tmp_path / "s.png").read_bytes() == before


@pytest.mark.parametrize(
    ("space", "family", "shape", "chosen"),
    [
        ("auto", "coupling", (16, 16, 3), "pixels"),
        ("auto", "coupling", (28, 28, 1), "latent"),
        ("auto", "convolutional", (28, 28, 1), "pixels"),
        ("latent", "coupling", (8, 8, 1), "latent"),
        ("auto", "auto", (16, 16, 3), "pixels"),
        ("auto", "auto", (28, 28, 1), "latent"),
        ("auto", "mlp", (8, 8, 1), "latent"),
        ("pixels", "coupling", (28, 28, 1), "pixels"),
    ],
)
def test_the_space_depends_on_the_size_of_the_pictures(space, family, shape, chosen):
    assert generate_choices.chosen_space(space, family, shape) == chosen


@pytest.mark.slow
def test_generate_in_the_codes_of_an_autoencoder(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "FIT_STEPS", 4)
    arguments = ["generate", "--data", str(pictures), "--space", "latent", *_SHEET]
    arguments += ["--checkpoint-dir", str(tmp_path / "kept")]
    for name in ("one", "resumed"):
        assert main([*arguments, "--out", str(tmp_path / name / "s.png")]) == 0
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert (report["config"]["space"], report["config"]["family"]) == ("latent", "mlp")
    assert 2 <= report["dim"] <= 10
    # Samples, their nearest images, and rows that move from one latent to another.
    factor, gap = 8, 4
    width = np.asarray(Image.open(tmp_path / "one" / "s.png")).shape[1]
    assert width == gap + 9 * (4 * factor + gap) + 4 * gap
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["autoencoder", "flow"]
    sheets = [(tmp_path / name / "s.png").read_bytes() for name in ("one", "resumed")]
    assert sheets[0] == sheets[1]


@pytest.mark.parametrize(
    ("space", "family", "shape", "chosen"),
    [("auto", "auto", (28, 28, 1), "pixels"), ("auto", "coupling", (8, 8, 1), "pixels")],
)
def test_convolutional_slices_are_of_pixels(space, family, shape, chosen):
    assert generate_choices.chosen_space(space, family, shape, "convolutional") == chosen


@pytest.mark.slow
def test_generate_by_convolutional_slices(pictures, tmp_path):
    out = tmp_path / "s.png"
    assert run_cli(f"generate --data {pictures} --slices convolutional --out {out}", *_SHEET) == 0
    config = json.loads((tmp_path / "report.json").read_text())["config"]
    assert (config["slices"], config["space"], config["family"]) == (
        "convolutional",
        "pixels",
        "coupling",
    )


@pytest.mark.slow
def test_generate_class_by_class(tmp_path, monkeypatch):
    """Bright and dark pictures: each row of the sheet has the brightness of its class."""
    monkeypatch.setattr(codes, "FIT_STEPS", 300)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2 * 3
    pixels = np.clip(60 + 45 * labels[:, None, None] + rng.normal(0, 20, (60, 5, 4)), 0, 255)
    np.savez(tmp_path / "some.npz", images=pixels.astype(np.uint8), labels=labels)
    numbers = ["--steps", "6", "--inner-steps", "40", "--samples", "60", "--projections", "8"]
    arguments = ["generate", "--data", str(tmp_path / "some.npz"), "--by-class", "--grid", "4"]
    assert main([*arguments, *numbers, "--no-progress", "--out", str(tmp_path / "s.png")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["config"]["by_class"]
    with np.load(tmp_path / "draws.npz") as draws:
        means = draws["points"].reshape(4, 4, 20).mean(axis=(1, 2))
    assert np.all(means[1::2] > means[::2].max() + 0.2)
    share = report["figures"]["nearest image has the class of the sample, share"]
    assert share >= 0.9


def test_clusters_of_codes_are_those_of_k_means(key):
    centers = jnp.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    points = jnp.repeat(centers, 60, axis=0) + jax.random.normal(key, (180, 2))
    found = classes.clusters_of(points, 40)
    # Fifty codes in each: three clusters, which are those of the centres.
    assert sorted(np.unique(found[part]).item() for part in np.split(np.arange(180), 3)) == [
        0,
        1,
        2,
    ]
    assert classes.clusters_of(points[:99], 40) is None
    assert classes.clusters_of(points, 1) is None


@pytest.mark.slow
def test_latents_of_classes_have_the_shares_of_the_data(key):
    shares = jnp.array([0.5, 0.2, 0.3])
    family = classes.Labelled(flows.mlp(5, 5), shares, jnp.array(2.0), 5, 2)
    params = family.init(key)
    counts = family.push(params, family.latent(key, 40)).points[:, 2:].sum(axis=0) / 2.0
    assert np.all(np.abs(counts - 40 * shares) <= 1)
    # A jackknife compares the halves of a batch, so neither holds whole classes alone.
    halves = family.push(params, family.latent(key, 400)).points[:, 2:].reshape(2, 200, 3)
    np.testing.assert_allclose(halves.mean(axis=1) / 2.0, jnp.stack([shares] * 2), atol=0.1)
    cloud = family.push(params, family.of_classes(key, jnp.array([0, 2])))
    np.testing.assert_array_equal(cloud.points[:, 2:], [[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]])


def test_slices_of_images_and_classes_are_those_of_the_images(key):
    images = swjko.convolutional_directions(4, 4)
    directions = classes.labelled_directions(images, 4)(key, 6, 20)
    np.testing.assert_allclose(jnp.linalg.norm(directions, axis=1), 1.0, rtol=1e-5)
    point_key, _ = jax.random.split(key)
    expected = 0.8**0.5 * images(point_key, 6, 16)
    np.testing.assert_allclose(directions[:, :16], expected, rtol=1e-5)


@pytest.mark.slow
def test_generate_by_the_convolutional_generator(pictures, tmp_path):
    out = tmp_path / "s.png"
    assert run_cli(f"generate --data {pictures} --family convolutional --out {out}", *_SHEET) == 0
    with Image.open(out) as picture:
        assert picture.mode == "L"
    assert json.loads((tmp_path / "report.json").read_text())["config"]["family"] == "convolutional"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--data", "mnist"], "--data-dir"),
        (["--data", "mnist", "--data-dir", "."], "no file train-images-idx3-ubyte"),
        (["--data", "few.npy"], "few.npy: must hold at least 10 images; got 9"),
        (["--data", "some.npy", "--batch-size", "17"], "some.npy: --batch-size must be at most 16"),
        (
            ["--data", "some.npy", "--family", "spline"],
            "argument --family: invalid choice: 'spline'",
        ),
        (["--family", "convolutional", "--space", "latent"], "Use it with --space pixels"),
        (["--family", "mlp", "--space", "pixels"], "Use it with --space latent"),
        (["--slices", "convolutional", "--space", "latent"], "are slices of pixels"),
        (["--slices", "convolutional", "--family", "mlp"], "are slices of pixels"),
        (["--slices", "random"], "argument --slices: invalid choice: 'random'"),
        (["--data", "some.npy", "--by-class"], "some.npy: has no labels for --by-class"),
        (["--by-class", "--family", "coupling"], "Use it with --family mlp"),
        (["--clusters", "4", "--family", "coupling"], "for a generator without classes"),
        (["--clusters", "4", "--by-class", "--space", "latent"], "without --by-class"),
        (["--by-class", "--space", "pixels"], "Use it with --space latent"),
        (["--by-class", "--slices", "convolutional"], "are slices of pixels"),
        (["--data", "one.npz", "--by-class"], "--by-class needs 2 to 100 classes; got 1"),
        (["--data", "short.npz", "--by-class"], "one integer for each of 20 images"),
        (["--data", "some.npy", "--grid", "101"], "--grid: must be a whole number from 1 to 100"),
        (["--data", "sizes"], "b.png: 3 x 3 pixels in grey; the first picture, a.png, has 4 x 4"),
        (["--data", "empty"], "empty: no pictures in it"),
        (["--out", "sheet.jpg"], "--out must be a file that ends in .png"),
        (["--out", "some.npy/sheet.png"], "some.npy is not a writable directory"),
        (["--data", "some.npy", "--checkpoint-dir", "few.npy"], "few.npy"),
    ],
)
def test_what_cannot_be_generated_is_refused_in_one_line(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWJKO_DATA", raising=False)
    for name, count in (("few", 9), ("some", 20)):
        np.save(f"{name}.npy", np.zeros((count, 2, 2), np.uint8))
    for name, labels in (("one", np.zeros(20, int)), ("short", np.zeros(19, int))):
        np.savez(f"{name}.npz", images=np.zeros((20, 2, 2), np.uint8), labels=labels)
    for folder in ("sizes", "empty"):
        (tmp_path / folder).mkdir()
    for name, side in (("a", 4), ("b", 3)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(f"sizes/{name}.png")
    assert main(["generate", *arguments, *_TINY]) == 2
    _expect_one_line(capsys, message)
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_exact_iterates_minimise_the_step():
    """One step on the line, where SW_2 is W_2, against direct minimisation."""
    problem = problems.gaussian_target(5, 1)
    means, covs = problems.exact_sw_jko_flow(problem, 0.7, 1)
    energies = [
        scores.gaussian_kl(mean, cov, problem.precision, problem.center)
        for mean, cov in zip(means, covs, strict=True)
    ]
    a, c = (problem.precision[0, 0], problem.center[0])

    def kl(mean, deviation):
        return (a * deviation**2 + a * (mean - c) ** 2 - 1 - np.log(a * deviation**2)) / 2

    def cost(x):
        return (x[0] ** 2 + (np.exp(x[1]) - 1) ** 2) / 1.4 + kl(x[0], np.exp(x[1]))

    best = scipy.optimize.minimize(cost, [0.0, 0.0], tol=1e-12).x
    np.testing.assert_allclose(
        [means[1, 0], np.sqrt(covs[1, 0, 0])], [best[0], np.exp(best[1])], rtol=1e-5
    )
    np.testing.assert_allclose(energies, [kl(0.0, 1.0), kl(best[0], np.exp(best[1]))], rtol=1e-5)


def test_held_out_scores_average_over_draws():
    """Two draws that disagree: the prediction is the mean of their probabilities."""
    data = problems.Table(np.array([[2.0], [1.0]]), np.array([1.0, -1.0]), ("x",), ("no", "yes"))
    found = scores.held_out_scores(np.array([[1.0], [-0.5]]), data)
    sigmoid = scipy.stats.logistic.cdf
    first, second = ((sigmoid(2.0) + sigmoid(-1.0)) / 2, (sigmoid(-1.0) + sigmoid(0.5)) / 2)
    assert found["held-out log-likelihood"] == pytest.approx((np.log(first) + np.log(second)) / 2)
    assert found["held-out accuracy"] == np.mean([first > 0.5, second > 0.5])


def test_components_are_principal():
    from sklearn.decomposition import PCA

    points = np.random.default_rng(0).standard_normal((80, 4)) * [1.0, 5.0, 2.0, 0.1] + 7.0
    scaled = match.scaled_points(points, 2, "common", "points")
    expected = PCA(2).fit(points)
    back = scaled.in_data_units(scaled.points)
    np.testing.assert_allclose(back, expected.inverse_transform(expected.transform(points)))
    assert np.sqrt(np.mean(scaled.points**2)) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", match.SCALES)
def test_scaled_points_map_back_to_units_of_the_data(scale):
    points = np.random.default_rng(0).standard_normal((80, 3)) @ np.diag([1e4, 1.0, 1e-3]) + 7.0
    points[:, 2] += 1e-4 * points[:, 0]
    scaled = match.scaled_points(points, None, scale, "points")
    np.testing.assert_allclose(scaled.in_data_units(scaled.points), points, rtol=1e-9, atol=1e-9)
    cov = np.cov(scaled.points.T, bias=True)
    if scale == "whiten":
        np.testing.assert_allclose(cov, np.eye(3), atol=1e-9)
    elif scale == "columns":
        np.testing.assert_allclose(np.diag(cov), 1.0)
    else:
        assert np.trace(cov) / 3 == pytest.approx(1.0)


def _expect_one_line(capsys, message: str) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("swjko: error: ")
    assert message in lines[0]
