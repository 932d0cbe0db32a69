"""Short texts of families, functionals and schemes, which would print all their arrays."""

from typing import Any

import jax


class Readable:
    """Gives subclasses a ``repr`` of a few lines: arrays by their shapes, functions by name."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Set here, before ``dataclass`` would set its own.
        setattr(cls, "__repr__", _short_repr)  # noqa: B010


def _short_repr(thing: object) -> str:
    import wadler_lindig

    def custom(part: Any) -> Any:
        if isinstance(part, jax.tree_util.Partial):
            shown = (part.func, *part.args, *part.keywords.values())
            return wadler_lindig.pdoc(shown[0] if len(shown) == 1 else shown, **options)
        if callable(part) and hasattr(part, "__qualname__"):
            return wadler_lindig.TextDoc(part.__qualname__)
        kind = type(part)
        is_foreign = not kind.__module__.startswith(("swjko.", "builtins", "jax", "numpy"))
        return wadler_lindig.TextDoc(kind.__name__) if is_foreign else None

    options: dict[str, Any] = {"custom": custom, "short_arrays": True}
    return wadler_lindig.pformat(thing, width=100, **options)
