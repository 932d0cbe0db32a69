"""What the caller of ``swjko.solve`` hands in to be asked between chunks: data and ``callback``."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from swjko.checkpoints.format import kind_of
from swjko.checkpoints.naming import Name, leaf_names
from swjko.checkpoints.single import SingleFile
from swjko.schemes.base import Info, Result, Scheme, State
from swjko.types import validation

# Called with the number of steps taken, the state after them, and the reports of the last chunk.
Callback = Callable[[int, State, Info], object]


class DataStream:
    """Batches of points that take the place of the data of a scheme, one after another.

    Args:
      data: Iterable of points, or of pairs (points, weights).
      steps: Steps that each batch serves.

    Raises:
      TypeError: ``data`` cannot be iterated.
    """

    def __init__(self, data: Iterable[Any], steps: int):
        kind = type(data).__name__
        if callable(data) or not isinstance(data, Iterable):
            raise TypeError(
                f"data must be an iterable of batches of points; got {kind}. Pass a generator, "
                "which is the result of a call of its function."
            )
        shape = getattr(data, "shape", None)
        if shape is not None and len(shape) < 3:  # it would be iterated row by row
            raise TypeError(
                f"data must be an iterable of batches [m d]; got one {kind} of shape "
                f"{tuple(shape)}. Pass a list of batches, or a generator that cuts it."
            )
        self._batches, self._steps, self._count = iter(data), steps, 0
        self._batch: Any = None

    def is_due(self, step: int) -> bool:
        """Return whether another batch is to be read before the step after this one."""
        return step // self._steps >= self._count

    def feed(self, step: int, scheme: Scheme) -> Any:
        """Read the batch for this step; return the scheme with it.

        Args:
          step: Number of steps taken. A run that resumes passes over the batches before.
          scheme: Scheme with the data that came before.
        """
        while self.is_due(step):
            try:
                self._batch = next(self._batches)
            except StopIteration:
                raise ValueError(
                    f"data must hold a batch for every {self._steps} steps; it ended after "
                    f"{self._count} batches, at step {self._count * self._steps}. Pass more, such "
                    "as itertools.cycle(batches), or lower num_steps."
                ) from None
            self._count += 1
        fed = with_data(scheme, self._batch)
        old, new = map(_shapes, (scheme, fed))
        if old != new:
            raise ValueError(
                "data must hold batches of one shape and dtype, those of the data of the scheme: "
                f"{', '.join(sorted(old - new)) or 'no weights'}; got "
                f"{', '.join(sorted(new - old)) or 'no weights'} in batch {self._count}. Drop a "
                "shorter last batch, and make the scheme with a batch of that shape."
            )
        return fed


def with_data(scheme: PyTree, batch: Any) -> Any:
    """Return a scheme with a batch in the one part of it that has a method ``with_data``."""

    def is_fed(part: Any) -> bool:
        return hasattr(part, "with_data")

    fed = list(filter(is_fed, jax.tree.leaves(scheme, is_leaf=is_fed)))
    if len(fed) != 1:
        raise TypeError(
            "data needs a scheme with one part that has a method with_data, such as "
            f"swjko.sw_to_target or swjko.sliced_flow; got {len(fed)} of them."
        )
    if isinstance(batch, (Mapping, str, bytes)):
        raise TypeError(
            "data must hold batches [m d] or pairs (points, weights); got a "
            f"{type(batch).__name__}. Pass (batch['points'] for batch in data)."
        )
    parts = batch if isinstance(batch, tuple) else (batch,)
    new = fed[0].with_data(*map(jax.numpy.asarray, parts))
    return jax.tree.map(lambda part: new if is_fed(part) else part, scheme, is_leaf=is_fed)


def as_start(state: PyTree, start: State) -> State:
    """Return the state at which a run is to start, placed on devices as ``start`` is.

    A flow that was stopped moves again.

    Args:
      state: State of the same scheme, also one that ``swjko.load`` has read; None for ``start``.
      start: State at mu_0.
    """
    if state is None:
        return start
    given, places = map(_named, (state, start))
    cure = "Pass solution.state, or swjko.load(directory).state, of a run of the same scheme."
    if given.keys() != places.keys():
        name = sorted(given.keys() ^ places.keys(), key=str)[0]
        where = "the scheme has none" if name in given else "it is missing"
        raise ValueError(
            f"state must be a state of the scheme; got one that differs at {_text(name)}, where "
            f"{where}. {cure}"
        )
    for name, place in places.items():
        leaf = given[name]
        if not hasattr(leaf, "dtype") or kind_of(leaf) != kind_of(place):
            got = f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else repr(leaf)
            raise ValueError(
                f"state must have the shapes and dtypes of the scheme; got {got} for "
                f"{_text(name)}, which is {place.dtype}{list(place.shape)}. {cure}"
            )
    placed = SingleFile().restore(0, [given[name] for name in places], start)
    codes = jax.numpy.where(placed.result == Result.STOPPED, Result.OK, placed.result)
    return placed._replace(result=codes.astype(placed.result.dtype))


@contextlib.contextmanager
def saved_on_error(save: Callable[[], None]) -> Iterator[None]:
    """Save before an error of the caller's own code ends the run."""
    try:
        yield
    except BaseException:
        save()
        raise


def as_callback(callback: Callback | None) -> Callback:
    """Return a function to call between chunks."""
    if callback is None:
        return lambda step, state, infos: None
    return validation.require_callable(callback, "callback", "(step, state, infos) -> anything")


def _named(tree: PyTree) -> dict[Name, Any]:
    return dict(zip(leaf_names(tree), jax.tree.leaves(tree), strict=True))


def _shapes(scheme: Scheme) -> set[str]:
    """Return path, dtype and shape of each leaf as texts."""
    avals = {name: jax.typeof(leaf) for name, leaf in _named(scheme).items()}
    return {f"{name[-1]} {aval.dtype}{list(aval.shape)}" for name, aval in avals.items()}


def _text(name: Name) -> str:
    return ".".join(map(str, ("state", *name)))
