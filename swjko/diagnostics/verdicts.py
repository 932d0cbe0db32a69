"""What a certificate holds, and its verdict on the steps of a run."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from swjko.diagnostics.importance import Importance
from swjko.types import Estimate, Scalar
from swjko.types.readable import html_table

# False alarms of a whole certificate.
FALSE_ALARMS = 0.025
# A fraction of the whole drop of energy that is small: as a fall at the end, or as a violation.
_SMALL_FRACTION = 0.01
# Rounding of sums, where nothing is random and the standard error is zero.
_ROUNDINGS = 8.0


class Certificate(NamedTuple):
    """Estimates for each of k steps; an ``Estimate`` holds values and standard errors, [k] each.

    It judges the steps, not the fit: steps without a fault may be too few, or the family too
    small. What is known of the fit is in ``fit``.

    Attributes:
      energy: F at the end of each step.
      proximity: SW_2^2(new, old) / (2 step_size).
      noise_floor: Values [k] below which a proximity is noise: its standard error. For a scheme
        with independent latents, plus the distance between two samples of the old measure,
        SW_2^2 / (2 step_size) of no move.
      dissipation: F(old) - F(new) - proximity, with terms from common random numbers.
      inner_gap: Norm of the gradient of the step's objective at its end over that at its start,
        the old measure; noise is subtracted.
      gradient_tolerance: Largest inner_gap that passes.
      num_standard_errors: Excess that a test allows, so that the whole certificate of a run
        without fault fails with a probability of at most 2.5 %. It is the quantile of Student's t
        with num_repeats - 1 degrees of freedom at the level 2.5 % / (2 k).
      fit: Importance weights of draws of the last measure; None without a target.
    """

    energy: Estimate
    proximity: Estimate
    noise_floor: Float[Array, " k"]
    dissipation: Estimate
    inner_gap: Estimate
    gradient_tolerance: Scalar
    num_standard_errors: Scalar
    fit: Importance | None = None

    @property
    def dissipates(self) -> Bool[Array, " k"]:
        """Whether each step has dissipation >= 0 within ``num_standard_errors``."""
        eps = jnp.finfo(self.energy.value.dtype).eps
        rounding = _ROUNDINGS * eps * (1.0 + jnp.abs(self.energy.value))
        value, error = self.dissipation
        return value + self.num_standard_errors * error + rounding >= 0

    @property
    def solved(self) -> Bool[Array, " k"]:
        """Whether each inner_gap is within the tolerance and ``num_standard_errors``.

        At the end of a flow both norms are noise.
        """
        value, error = self.inner_gap
        return value <= self.gradient_tolerance + self.num_standard_errors * error

    @property
    def decrease(self) -> Estimate:
        """F(old) - F(new) of each step, [k]; its standard error is an upper bound."""
        return Estimate(*(a + b for a, b in zip(self.dissipation, self.proximity, strict=True)))

    @property
    def still_falls(self) -> Bool[Array, ""]:
        """Whether F still falls at the end, so that more steps would lower it.

        That is, whether the last tenth of the steps, at least three of them, lowered F by more
        than ``num_standard_errors`` and by more than 1 % of the whole drop.
        """
        value, error = self.decrease
        last = self._num_last()
        eps = jnp.finfo(value.dtype).eps
        rounding = _ROUNDINGS * eps * (1.0 + jnp.abs(self.energy.value[-1]))
        noise = self.num_standard_errors * jnp.sqrt(jnp.sum(error[-last:] ** 2)) + rounding
        whole = jnp.maximum(jnp.sum(value), 0.0)
        return jnp.sum(value[-last:]) > jnp.maximum(noise, _SMALL_FRACTION * whole)

    @property
    def passed(self) -> bool:
        """Whether all steps dissipate and are solved."""
        return bool(jnp.all(self.dissipates & self.solved))

    @property
    def verdict(self) -> str:
        """One line on the steps: certified, and how well, or the first that is not, and why.

        It also says whether the energy still falls at the end, and so whether to take more steps,
        and what is known of the fit.
        """
        good = np.asarray(self.dissipates & self.solved)
        count = len(good)
        if np.all(good):
            still = int(np.sum(np.asarray(self.proximity.value) <= np.asarray(self.noise_floor)))
            steps = (
                f"certified: {count} of {count} steps dissipate energy, at a false-alarm level of "
                f"{100 * FALSE_ALARMS:g} %; inner gradient fell to at most "
                f"{100 * float(jnp.max(self.inner_gap.value)):.2g} % of its start"
                + (f"; {still} moved less than the noise floor" if still else "")
            )
        else:
            first = int(np.argmin(good))
            steps = f"not certified: step {first + 1} of {count} {self._failure(first)}"
        return f"{steps}; {self._end()}; this judges the steps, not the fit{self._fit()}"

    def _repr_html_(self) -> str | None:
        if self.energy.value.ndim != 1:  # many at once, from vmap
            return None
        value, error = (float(part[-1]) for part in self.energy)
        rows = {"verdict": self.verdict, "steps": str(self.energy.value.shape[-1])}
        rows["energy at the end"] = f"{value:.5g} +- {error:.2g}"
        good = jnp.sum(self.dissipates & self.solved)
        return html_table("Certificate", rows | {"steps without fault": str(good)})

    def _fit(self) -> str:
        if self.fit is None:
            return ""
        gap = float(self.fit.log_evidence - self.fit.elbo.value)
        return (
            f". Fit: log Z = {float(self.fit.log_evidence):.5g} +- "
            f"{float(self.fit.standard_error):.1g}, KL above its minimum by {gap:.2g}; "
            f"{self.fit.verdict}"
        )

    def _num_last(self) -> int:
        count = self.energy.value.shape[-1]
        return min(count, max(3, -(-count // 10)))

    def _end(self) -> str:
        """Says whether the energy still falls."""
        falls, last = np.asarray(self.decrease.value, float), self._num_last()
        if not np.all(np.isfinite(falls)):
            return "whether the energy still falls is unknown"
        if not bool(self.still_falls):
            return "energy no longer falls beyond noise"
        whole = np.sum(falls)
        size = f" by {100 * np.sum(falls[-last:]) / whole:.0f} % of its drop" if whole > 0 else ""
        return f"energy still falls{size} in the last {last} steps: take more steps"

    def _failure(self, step: int) -> str:
        dissipation = float(self.dissipation.value[step])
        gap = float(self.inner_gap.value[step])
        if not np.isfinite(dissipation + gap):
            return (
                "is not finite: lower the learning rate or step_size, or check the functional on "
                "the samples"
            )
        if not bool(self.dissipates[step]):
            return self._violation(-dissipation, float(self.dissipation.standard_error[step]))
        tolerance = 100 * float(self.gradient_tolerance)
        return (
            f"left {100 * gap:.3g} % of the inner gradient at its start, more than "
            f"{tolerance:.3g} %: raise num_inner_steps"
        )

    def _violation(self, rise: float, error: float) -> str:
        """Says by how much a step fails to dissipate, and the cure."""
        size = f"{rise / error:.2g} standard errors" if error > 0 else "beyond rounding"
        whole = float(jnp.sum(self.decrease.value))
        if whole > 0:
            size += f", {100 * rise / whole:.2g} % of the whole drop of energy"
        found = f"raised energy + proximity by {rise:.3g} ({size})"
        # While the energy falls, a violation that hardly matters to it asks for no other cure.
        if rise <= _SMALL_FRACTION * whole and bool(self.still_falls):
            return found
        return f"{found}: lower the learning rate, or raise num_inner_steps"
