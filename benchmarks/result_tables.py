"""What ``benchmarks.tables`` says of each result: from the content of its JSON to lines of Markdown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
_MINUS = "\N{MINUS SIGN}"
_SHOWN_PACKAGES = ("jax", "torch", "POT", "ott-jax", "blackjax")
_PEERS = {
    "POT torch": "POT (torch)",
    "POT NumPy, value": "POT (NumPy, value alone)",
    "OTT-JAX": "OTT-JAX",
    "torch.sort": "`torch.sort`",
}


def readme_speed(result: Result) -> list[str]:
    """Points, dimension and directions across, methods down."""
    rows = _equal(result)
    cases = [
        (f"{row['shape']['n']:,}", row["shape"]["dim"], row["shape"]["directions"]) for row in rows
    ]
    lines = [("swjko", *(_milliseconds(row["median_seconds"]["swjko"]) for row in rows))]
    lines += [
        (_PEERS[name], *(_times(row["ratio"].get(name)) for row in rows))
        for name in ("POT torch", "OTT-JAX", "torch.sort")
    ]
    return _table(
        ("points, dimension, directions", *(" / ".join(map(str, case)) for case in cases)), lines
    )


def readme_fidelity(result: Result) -> list[str]:
    rows = [row for row in result["stationary"]["rows"] if row["published_log10"] is not None]
    published = result["published"]
    lines = [
        ("swjko", *(_log10(row["mean_log10"]) for row in rows)),
        ("published SW-JKO", *(_log10(row["published_log10"]) for row in rows)),
        (
            "50,000 particles, published",
            *(_log10(published["Euler-Maruyama, 50000"][str(row["dim"])]) for row in rows),
        ),
        ("swjko, seconds", *(_seconds(row["mean_seconds"]) for row in rows)),
    ]
    return _table(
        ("$\\log_{10}$ SymKL to the stationary law", *(f"d = {row['dim']}" for row in rows)), lines
    )


def whole_run(result: Result) -> list[str]:
    """A sentence, for a place within a line too."""
    run = result["speed"]
    seconds, ratio = run["published_seconds"], run["ratio"]
    here = "measured here, distance and gradient alone"
    text = f"in d = {run['dim']} a run to {_log10(run['mean_log10'])}, published: {_log10(run['published_log10'])}, takes "
    text += (
        f"{run['mean_seconds']:.0f} s with compilation, in the mean of {len(run['runs'])} problems."
    )
    if here in seconds:
        text += f" The distances and gradients alone of all updates of the published configuration come to {seconds[here]:.0f} s in torch"
        text += f" on the same machine, {ratio[here]:.0f} times as long, from the time of one."
    return [text]


def kernel_equal(result: Result) -> list[str]:
    names = (*_PEERS, "jnp.sort", "no sort")
    rows = []
    for row in _equal(result):
        sharded = row["sharded"]
        found = [
            _clouds(row["shape"]),
            _milliseconds(row["median_seconds"]["swjko"]),
            *(_times(row["ratio"].get(name)) for name in names),
        ]
        rows.append((*found, _times(sharded["speedup"])))
    head = (
        "clouds",
        "swjko",
        *_PEERS.values(),
        "`jnp.sort`, autodiff",
        "no sort at all",
        "directions on two devices",
    )
    return [*_table(head, rows), "", _provenance(result)]


def kernel_unequal(result: Result) -> list[str]:
    names = ("POT torch", "POT NumPy, value", "OTT-JAX")
    rows = [
        (
            _clouds(row["shape"]),
            _milliseconds(row["median_seconds"]["swjko"]),
            *(_times(row["ratio"].get(name)) for name in names),
        )
        for row in result["runs"]
        if not _is_equal(row)
    ]
    return _table(("clouds", "swjko", *(_PEERS[name] for name in names)), rows)


def kernel_accuracy(result: Result) -> list[str]:
    rows = [
        (
            _clouds(row["shape"]),
            _power(row["relative_error"]["value"]),
            _power(row["relative_error"]["gradient"]),
        )
        for row in result["runs"]
        if row["relative_error"] is not None
    ]
    return _table(("clouds", "relative error of the value", "of the gradient"), rows)


def kernel_memory(result: Result) -> list[str]:
    rows = [
        (
            f"{row['points']:,}",
            row["directions"],
            f"{row['peak_mib']:.0f} MiB",
            _seconds(row["seconds"]),
        )
        for row in result["peaks"]
    ]
    head = ("points in each cloud", "directions", "peak of the process", "seconds")
    return _table(head, rows)


def directions(result: Result) -> list[str]:
    rows = []
    for row in result["winners"]:
        ratio, wins = row["error_over_uniform"], row["wins"]
        rows.append(
            (
                row["dim"],
                f"{ratio['orthogonal']:.2g}",
                f"{ratio['quasi']:.2g}",
                row["winner"],
                f"{wins[row['winner']]} of {sum(wins.values())}",
            )
        )
    head = ("d", "orthogonal / uniform", "quasi / uniform", "least error", "in so many settings")
    return [*_table(head, rows), "", _provenance(result)]


def oracles(result: Result) -> list[str]:
    isotropic, ring, mixture = result["isotropic"], result["ring"], result["mixture"]
    rows: list[tuple[Any, ...]] = []
    for name in ("mean", "scale"):
        found = isotropic[name]
        value = f"{found['value']:.4f} ± {found['standard_error']:.4f}"
        what = f"{name} of a Gaussian after {isotropic['settings']['num_steps']} steps, d = {isotropic['dim']}"
        rows.append((what, "`isotropic_sw_jko_step`", f"{found['exact']:.4f}", value))
    for run in result["anisotropic"]["runs"]:
        what = f"covariances of {result['anisotropic']['settings']['num_steps']} steps, d = {run['dim']}"
        rows.append(
            (
                what,
                "`gaussian_sw_jko_step`",
                "",
                f"largest relative error {100 * run['worst_relative_error']['cov']:.1f} %",
            )
        )
    rows.append(
        (
            "energy of the ring, particles",
            "$-1/12$",
            _plain(ring["exact"], "{:.6f}"),
            _plain(ring["energy"], "{:.6f}"),
        )
    )
    rows.append(
        ("radius of the ring", "$1/\\sqrt 3$", f"{3**-0.5:.4f}", f"{ring['radius_mean']:.4f}")
    )
    for run in mixture["runs"]:
        value = _plain(run["energy"], "{:.4f}") + f" ± {run['standard_error']:.4f}"
        exact = _plain(mixture["exact"], "{:.4f}")
        rows.append(
            (
                f"energy of a mixture, problem {run['seed']}, splines",
                "$-\\log(10\\pi)$",
                exact,
                value,
            )
        )
    for run in result["kernel_accuracy"]["runs"]:
        found = run["relative_error"]
        value = f"errors {_power(found['float32']['value'])} in float32, {_power(found['float64']['value'])} in float64"
        rows.append((f"$SW_2^2$, (n, d, L) = {tuple(run['shape'])}", "NumPy, float64", "", value))
    return [*_table(("quantity", "oracle", "exact", "measured"), rows), "", _provenance(result)]


def stationary(result: Result) -> list[str]:
    published = result["published"]
    rows = []
    for row in result["stationary"]["rows"]:
        dim = str(row["dim"])
        particles = row["euler_maruyama_log10"].get("1000")
        rows.append(
            (
                row["dim"],
                len(row["runs"]),
                _log10(row["mean_log10"]),
                _log10(row["worst_log10"]),
                _log10(row["published_log10"]),
                _log10(_mean(particles) if particles else None),
                _log10(published["Euler-Maruyama, 50000"].get(dim)),
                _seconds(row["mean_seconds"]),
            )
        )
    head = (
        "d",
        "problems",
        "swjko",
        "its worst",
        "SW-JKO, published",
        "1000 particles, ours",
        "50,000 particles, published",
        "swjko, s",
    )
    return [*_table(head, rows), "", _provenance(result)]


def trajectory(result: Result) -> list[str]:
    rows = []
    for row in result["trajectory"]["rows"]:
        mean = row["mean"]
        for index, time in enumerate(row["wasserstein_times"]):
            own, geometry = (
                mean["log10"][index],
                mean["exact_sw_flow_to_ornstein_uhlenbeck_log10"][index],
            )
            rows.append(
                (row["dim"], f"{time:.2g}", len(row["runs"]), _log10(own), _log10(geometry))
            )
    return _table(
        (
            "d",
            "Wasserstein time",
            "problems",
            "swjko to the exact SW-JKO iterate",
            "exact SW flow to Ornstein-Uhlenbeck",
        ),
        rows,
    )


def gaussian_family(result: Result) -> list[str]:
    rows = []
    for row in result["gaussian"]["rows"]:
        error = row["worst_relative_error"]
        rows.append(
            (
                row["dim"],
                f"{error['mean_in_standard_deviations']:.1e}",
                f"{error['covariance']:.1e}",
            )
        )
    return _table(
        (
            "d",
            "largest error of a mean, in standard deviations",
            "largest relative error of a covariance",
        ),
        rows,
    )


def mixtures(result: Result) -> list[str]:
    published = result["published"]
    rows = []
    for row in sorted(result["rows"], key=lambda row: (row["dim"], row["mean"])):
        dim = str(row["dim"])
        value = (
            f"{row['mean']:.3f} ± {row['standard_error']:.3f}"
            if row["standard_error"] is not None
            else f"{row['mean']:.3f}"
        )
        peers = (published["JKO-ICNN"].get(dim), published["Euler-Maruyama, 50000"].get(dim))
        rows.append(
            (
                row["dim"],
                f"`{row['family']}`",
                len(row["runs"]),
                value,
                f"{row['worst']:.3f}",
                *(_plain(peer) for peer in peers),
                _log10(row["mean_log10"]),
                _log10(published["SW-JKO, log10"].get(dim)),
                _seconds(row["mean_seconds"]),
            )
        )
    head = (
        "d",
        "family",
        "problems",
        "SymKL",
        "its worst",
        "JKO-ICNN, published",
        "50,000 particles, published",
    )
    head = (*head, "$\\log_{10}$, mean", "SW-JKO, published", "seconds")
    return [*_table(head, rows), "", _provenance(result)]


def aggregation(result: Result) -> list[str]:
    rows = []
    for (problem, family), runs in _grouped(result["runs"], "problem", "family"):
        worst = max(abs(run["relative_error"]) for run in runs)
        seconds = _mean(run["run_seconds"] + run["compile_seconds"] for run in runs)
        energy, exact = _mean(run["energy"] for run in runs), runs[0]["exact"]
        published = _plain(result["published"][problem]) if family == "mlp" else ""
        rows.append(
            (
                problem,
                f"`{family}`",
                len(runs),
                _plain(energy, "{:.5f}"),
                _plain(exact, "{:.5f}"),
                f"{100 * worst:.2g} %",
                published,
                _seconds(seconds),
            )
        )
    head = (
        "equilibrium",
        "family",
        "runs",
        "energy",
        "exact",
        "largest error",
        "network, published",
        "seconds",
    )
    return [*_table(head, rows), "", _provenance(result)]


def ablation(result: Result) -> list[str]:
    cases = result["rows"]
    rows = [
        (
            "**standard, $\\log_{10}$ SymKL**",
            *(_with_error(case["standard_log10"]) for case in cases),
        )
    ]
    names = dict.fromkeys(name for case in cases for name in case["difference"])
    # Dimensions are measured apart; a choice that came later may lack in some.
    rows += [
        (
            name,
            *(
                _with_error(case["difference"][name], sign=True)
                if name in case["difference"]
                else ""
                for case in cases
            ),
        )
        for name in names
    ]
    head = ("changed", *(f"{case['measure']}, d = {case['dim']}" for case in cases))
    return [*_table(head, rows), "", _provenance(result)]


def schemes_trajectory(result: Result) -> list[str]:
    rows = []
    for row in result["trajectory"]["rows"]:
        for index, time in enumerate(row["times"]):
            found = [row["dim"], time, len(row["runs"]["sw_jko"])]
            for name in (
                "sw_jko_own_step",
                "icnn_jko_own_step",
                "sw_jko_law",
                "icnn_jko_law",
                "langevin_law",
                "exact_sw_flow_to_law",
            ):
                found.append(_log10(row[f"{name}_median"][index]))
            published = row["published_jko_icnn_law"]
            rows.append((*found, _log10(published[index] if published else None)))
    head = (
        "d",
        "time",
        "problems",
        "SW-JKO, own step",
        "JKO-ICNN, own step",
        "SW-JKO, law",
        "JKO-ICNN, law",
        "Langevin, law",
    )
    head = (*head, "exact SW flow, law", "JKO-ICNN, law, published")
    return [*_table(head, rows), "", _provenance(result)]


def schemes_long(result: Result) -> list[str]:
    rows = []
    for row in result["long"]["rows"]:
        for name, label in (("sw_jko", "SW-JKO"), ("icnn_jko", "JKO-ICNN")):
            run = row[name]
            rows.append(
                (
                    row["dim"],
                    label,
                    *(_log10(value) for value in run["own_step"]),
                    _seconds(run["run_seconds"]),
                )
            )
    times = result["long"]["rows"][0]["times"]
    return _table(
        ("d", "scheme, to its own exact step", *(f"time {time:g}" for time in times), "seconds"),
        rows,
    )


def schemes_stationary(result: Result) -> list[str]:
    found = result["stationary"]
    rows = []
    for run in found["runs"]:
        seconds = [run[name]["seconds_to_level"] for name in ("sw_jko", "icnn_jko")]
        rows.append(
            (
                run["seed"],
                _log10(run["level_log10"]),
                *(_plain(value, "{:.1f}") for value in seconds),
            )
        )
    head = (f"problem, d = {found['dim']}", "level, $\\log_{10}$ SymKL", "SW-JKO, s", "JKO-ICNN, s")
    return _table(head, rows)


def logistic_regression(result: Result) -> list[str]:
    """Where the rows are separable the posterior has no variance: its medians and the widths of its central 68 % are compared."""
    rows = []
    for name, entry in result["summary"].items():
        location, spread = ("median", "width") if entry["separable"] else ("mean", "ratio")
        itself = (
            {"NUTS, two chains against two": entry["two_chains_against_two"]}
            if entry["separable"]
            else {}
        )
        for method, found in (entry["methods"] | itself).items():
            low, high = found[spread]
            rows.append(
                (
                    f"{name}{' (separable)' if entry['separable'] else ''}",
                    {"sw_jko": "SW-JKO", "icnn_jko": "JKO-ICNN"}.get(method, method),
                    f"{found[location]:.3f}",
                    f"{low:.2f} to {high:.2f}",
                    _plain(
                        found["log_likelihood"],
                        "{:+.5f}" if method in entry["methods"] else "±{:.5f}",
                    ),
                    f"{found['held-out accuracy']:.3f}" if method in entry["methods"] else "",
                    _seconds(found["seconds"]) if method in entry["methods"] else "",
                )
            )
    head = (
        "data",
        "method",
        "means off by, in deviations",
        "ratios of deviations",
        "log-likelihood less that of NUTS",
        "accuracy",
        "seconds",
    )
    lines = _table(head, rows)
    unsure = [
        f"{name}, split {seed}"
        for name, entry in result["summary"].items()
        for seed in entry["splits_without_reference"]
    ]
    if unsure:
        lines += ["", f"The chains of NUTS do not agree to an R-hat of 1.01: {'; '.join(unsure)}."]
    if result["missing"]:
        lines += ["", f"Not found and left out: {', '.join(result['missing'])}."]
    return [*lines, "", _provenance(result)]


def images(result: Result) -> list[str]:
    def cells(found: Mapping[str, Any]) -> tuple[str, ...]:
        spread = [
            f"{found[name]['mean']:.3g}" + _plain(found[name]["deviation"], " ± {:.2g}")
            for name in ("frechet", "sw")
        ]
        return (
            *spread,
            *(f"{found[name]['mean']:.2f}" for name in ("precision", "recall", "memorisation")),
        )

    def over_autoencoder(name: str) -> str:
        ratio = result["comparisons"].get(f"Frechet of {name} over that of autoencoder, training")
        return f"{ratio['mean']:.2f}" if ratio else ""

    rows = [(f"*{name}*", *cells(found), "", "") for name, found in result["references"].items()]
    for row in result["rows"]:
        rows.append(
            (
                row["method"],
                *cells(row),
                over_autoencoder(row["method"]),
                _seconds(row["run_seconds"] + row["compile_seconds"]),
            )
        )
    head = (
        "images",
        "Frechet, % of variance",
        "$SW_2^2$ in pixels",
        "precision",
        "recall",
        "memorisation",
    )
    head += ("Frechet over *autoencoder, training*", "seconds")
    return [*_table(head, rows), "", _provenance(result)]


def reliability(result: Result) -> list[str]:
    rows = []
    for row in result["rows"].values():
        measured = (
            row["measured"]
            if isinstance(row["measured"], Mapping)
            else {"cases": len(row["measured"])}
        )
        shown = [
            f"{name.replace('_', ' ')} {value if isinstance(value, int) else f'{value:.3g}'}"
            for name, value in measured.items()
            if isinstance(value, int | float)
        ]
        rows.append(
            (
                row["what"],
                row["required"],
                "yes" if row["met"] else "**no**",
                ", ".join(shown),
                _seconds(row["seconds"]),
                row["date"],
            )
        )
    return [
        *_table(("drill", "required", "met", "counted", "seconds", "date"), rows),
        "",
        _provenance(result),
    ]


def scaling_flows(result: Result) -> list[str]:
    rows = [
        (
            row["num_flows"],
            *(f"{row['flows_per_second'][name]:.3g}" for name in ("run_many", "loop")),
            f"{row['ratio']:.2f}",
        )
        for row in result["flows"]
    ]
    return [
        *_table(("flows", "`run_many`, flows per second", "a loop", "ratio"), rows),
        "",
        _provenance(result),
    ]


def scaling_sizes(result: Result) -> list[str]:
    rows = []
    for name, measured in result["sizes"].items():
        first, last, slope = measured[0], measured[-1], result["exponents"][name]
        seconds = f"{_milliseconds(first['seconds'])} to {_milliseconds(last['seconds'])}"
        rows.append(
            (
                f"`{name}`",
                f"{first[name]} to {last[name]}",
                seconds,
                *(_plain(slope[key], "{:.2f}") for key in ("seconds", "temporary_bytes")),
            )
        )
    return _table(
        ("varied", "from, to", "one flow", "exponent of seconds", "of temporary bytes"), rows
    )


def _table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    ]


def _provenance(result: Result) -> str:
    """Where and when, with the load of the machine: above the number of cores, others were at work and seconds are too many."""
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in _SHOWN_PACKAGES if name in versions)
    load = (
        f", load {machine['load_average'][0]:.1f} at the end" if machine.get("load_average") else ""
    )
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
    return f"*`{result['benchmark']}.json`, {result['date']}: {machine['cpu']}, {cores}{load}; Python {versions['python']}, {packages}.*"


def _equal(result: Result) -> list[Any]:
    return [row for row in result["runs"] if _is_equal(row)]


def _is_equal(row: Result) -> bool:
    return row["shape"]["n"] == row["shape"]["m"] and not row["shape"]["weighted"]


def _clouds(shape: Mapping[str, Any]) -> str:
    sizes = (
        f"n = {shape['n']:,}"
        if shape["n"] == shape["m"]
        else f"n = {shape['n']:,}, m = {shape['m']:,}"
    )
    return f"{sizes}, d = {shape['dim']}, {shape['directions']} directions{', weighted' if shape['weighted'] else ''}"


def _grouped(rows: Iterable[Any], *keys: str) -> list[tuple[tuple[Any, ...], list[Any]]]:
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.items())


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def _with_error(found: Mapping[str, Any], *, sign: bool = False) -> str:
    value = f"{found['mean']:+.2f}" if sign else f"{found['mean']:.2f}"
    return value.replace("-", _MINUS) + _plain(found["standard_error"], " ± {:.2f}")


def _plain(value: float | None, form: str = "{:g}") -> str:
    return "" if value is None else form.format(value).replace("-", _MINUS)


def _log10(value: float | None) -> str:
    return _plain(value, "{:.2f}")


def _power(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.{1 if ratio >= 0.95 else 2}f}\N{MULTIPLICATION SIGN}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"
