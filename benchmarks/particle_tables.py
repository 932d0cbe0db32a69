"""Tables of the particle methods, by region of the pages."""

from typing import Any

from benchmarks.markdown import Region, Result, region


def _scaling(result: Result) -> list[Any]:
    return [
        row
        | {"texts": ", ".join(f"{one}: {seconds:.2g}" for one, seconds in row["seconds"].items())}
        for row in result["scaling"]
    ]


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
    "particles-tables": region(
        "particles",
        lambda result: result["tables"],
        "table | rows | d | Gaussian | coupling flow | its seconds | slice matching | "
        "its seconds | ratio of seconds",
        "{data} | {n} | {dim} | {gaussian:.2f} | {methods[coupling flow][held_out]:.2f} | "
        "{methods[coupling flow][seconds]:seconds} | {methods[slice matching][held_out]:.2f} | "
        "{methods[slice matching][seconds]:seconds} | {seconds_ratio:.1f}",
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
}
