"""Tables of the particle methods, by region of the pages."""

from typing import Any

from benchmarks.markdown import Region, Result, region


def _scaling(result: Result) -> list[Any]:
    return [
        row
        | {"texts": ", ".join(f"{one}: {seconds:.2g}" for one, seconds in row["seconds"].items())}
        for row in result["scaling"]
    ]


def _densities(result: Result) -> list[Any]:
    return [row | row["methods"] for row in result["rows"]]


TABLES: dict[str, Region] = {
    "particles": region(
        "particles",
        lambda result: [row | {"moves": row["updates"][-1]} for row in result["curves"]],
        "target | method | updates | at the start | at the end | floor | seconds | result",
        "{problem} | {method} | {moves} | {start:.3f} | {last:.4f} | {floor:.4f} | "
        "{run_seconds:seconds} | {result}",
    ),
    "particles-svgd": region(
        "particles",
        lambda result: [result["svgd"]],
        "points | d | swjko | blackjax | ratio | largest difference | swjko, MiB | blackjax, MiB",
        "{n:,} | {dim} | {median_seconds[swjko]:ms} | {median_seconds[blackjax]:ms} | "
        "{ratio:.1f} | {largest_difference:.0e} | {temporary_mib[swjko]:.0f} | "
        "{temporary_mib[blackjax]:.0f}",
        note=False,
    ),
    "particles-scaling": region(
        "particles",
        _scaling,
        "by | fixed | seconds | exponent",
        "{over} | {fixed} | {texts} | {exponent:.2f}",
        note=False,
    ),
    "particles-large": region(
        "particles",
        lambda result: result["large"],
        "method | particles | d | seconds of a move | peak of the process | matrix of all pairs",
        "{method} | {points:,} | {dim} | {seconds:seconds} | {peak_mib:,.0f} MiB | "
        "{all_pairs_mib:,.0f} MiB",
        note=False,
    ),
    "densities": region(
        "densities",
        _densities,
        "table | rows | d | start of the map | random bases | slice matching | coupling flow | "
        "seconds of the two | ratio in JAX alone | with swjko-native | with compilation | "
        "steps to within 10 % | ratio then",
        "{table} | {n:,} | {dim} | {start[held_out][mean]:.2f} | "
        "{random bases[held_out][mean]:.2f} | {slice matching[held_out][mean]:.2f}"
        "{slice matching[held_out][deviation]:±.2f} | {coupling flow[held_out][mean]:.2f}"
        "{coupling flow[held_out][deviation]:±.2f} | {slice matching[seconds]:.2g}, "
        "{coupling flow[seconds]:.2g} | {ratios[slice matching][runs]:ratio} | "
        "{ratios[slice matching, swjko-native][runs]:ratio} | "
        "{ratios[slice matching][with_compilation]:ratio} | {near[steps]} | {near[ratio]:ratio}",
    ),
}
