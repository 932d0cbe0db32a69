"""Functionals F(mu) of a probability measure, estimated on clouds."""

from swjko.functionals.base import is_entropy_like, needs_density

__all__ = ["is_entropy_like", "needs_density"]
