"""The options of ``generate``."""

import argparse

from swjko.cli import settings
from swjko.cli.arguments import as_path, as_whole

_MOST_CLUSTERS = 100


def add_generate(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``generate`` that other problems do not have.

    Args:
      parser: Parser of the subcommand.
    """
    add = parser.add_argument
    text = (
        "digits (default), mnist, fashion or cifar10; or a folder of pictures, an IDX file, or a "
        ".npy or .npz array [n h w] or [n h w c]"
    )
    add("--data", type=as_path, metavar="DATA", help=text)
    text = "directory of the files of mnist, fashion and cifar10 (default $SWJKO_DATA)"
    add("--data-dir", type=as_path, metavar="DIR", help=text)
    text = (
        "perceptron of codes (mlp), coupling flow with a density, or convolutional generator of "
        "pixels (default auto: mlp in codes, coupling in pixels)"
    )
    add("--family", choices=settings.GENERATE_FAMILIES, help=text)
    text = (
        "space of the flow: pixels, or latent codes of an autoencoder that is fitted first "
        "(default auto: latent beyond 16 x 16 pixels, unless family or slices are convolutional)"
    )
    add("--space", choices=settings.GENERATE_SPACES, help=text)
    text = "directions: orthogonal (default), or random convolutions of pixels, which see patches"
    add("--slices", choices=settings.GENERATE_SLICES, help=text)
    text = (
        "draw each class by itself, one in each row of the sheet, from images with labels; for mlp "
        "in codes"
    )
    add("--by-class", action="store_const", const=True, help=text)
    text = "clusters of images that mlp and convolutional tell apart (default 40); 1 for none"
    add("--clusters", type=as_whole(1, _MOST_CLUSTERS), metavar="N", help=text)
    text = "images for each update (default 2000, or 8000 for mlp, or all if there are fewer)"
    add("--batch-size", type=as_whole(1, settings.MOST["samples"]), metavar="N", help=text)
    add(
        "--grid", type=as_whole(1, 100), metavar="N", help="N x N samples on the sheet (default 10)"
    )
    text = "save checkpoints here, and resume from them"
    add("--checkpoint-dir", type=as_path, metavar="DIR", help=text)
