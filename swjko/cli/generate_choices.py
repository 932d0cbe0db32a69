"""Which family and space ``generate`` uses, and what does not fit together."""

from swjko.cli.settings import GENERATE_FAMILIES, GENERATE_SLICES, GENERATE_SPACES
from swjko.data.tables import DataError
from swjko.types import validation


def chosen_family(
    family: str, space: str, shape: tuple[int, int, int], slices: str, by_class: bool
) -> tuple[str, str]:
    """Return the family and the space where they are "auto".

    Args:
      family: One of ``GENERATE_FAMILIES``.
      space: One of ``GENERATE_SPACES``.
      shape: (h, w, c) of an image.
      slices: One of ``GENERATE_SLICES``.
      by_class: Whether classes are drawn by themselves.

    Raises:
      DataError: If they do not fit together.
    """
    family = validation.as_choice(family, "family", GENERATE_FAMILIES)
    if by_class and family == "auto":
        family = "mlp"
    if by_class and family != "mlp":
        raise DataError("--by-class draws codes by a perceptron. Use it with --family mlp.")
    space = chosen_space(space, family, shape, slices)
    if family == "auto":
        family = "mlp" if space == "latent" else "coupling"
    return family, space


def require_clusters(clusters: int | None, family: str, by_class: bool) -> None:
    """Refuse a number of clusters where there are none.

    Args:
      clusters: See ``generate``.
      family: The family that was chosen.
      by_class: Whether classes are drawn by themselves.

    Raises:
      DataError: If they do not fit together.
    """
    if clusters is None:
        return
    validation.as_count(clusters, "clusters")
    if by_class or family == "coupling":
        raise DataError(
            "--clusters are for a generator without classes. Use them with --family mlp or "
            "convolutional, and without --by-class."
        )


def chosen_space(
    space: str, family: str, shape: tuple[int, int, int], slices: str = "orthogonal"
) -> str:
    """Return "pixels" or "latent"; "auto" means latent for more than 16 x 16 pixels."""
    space = validation.as_choice(space, "space", GENERATE_SPACES)
    convolved = validation.as_choice(slices, "slices", GENERATE_SLICES) == "convolutional"
    if space == "latent" and family == "convolutional":
        raise DataError("--family convolutional draws pixels. Use it with --space pixels.")
    if convolved and (space == "latent" or family == "mlp"):
        raise DataError(
            "--slices convolutional are slices of pixels. Use them with --space pixels and "
            "--family coupling or convolutional."
        )
    if space == "pixels" and family == "mlp":
        raise DataError("--family mlp draws codes. Use it with --space latent.")
    if space != "auto":
        return space
    large = "convolutional" not in (family, slices) and shape[0] * shape[1] > 256
    return "latent" if large or family == "mlp" else "pixels"
