"""Exact distances, flows and JKO steps between Gaussians: references for tests of everything else.

Throughout, V(x) = (x - center)^T precision (x - center) / 2 and
F(mu) = int V dmu + int log rho drho. Up to a constant, F is the Kullback-Leibler divergence to
N(center, precision^{-1}). Covariances are [d d], symmetric positive definite. All functions
compute in the dtype of their arguments; pass float64 for an accuracy of 1e-12.
"""

from swjko.closed_form.gaussians import (
    Gaussian,
    gaussian_jko_flow,
    gaussian_jko_step,
    gaussian_sw2_pow,
    gaussian_w2_pow,
    ornstein_uhlenbeck,
)
from swjko.closed_form.sliced_steps import (
    IsotropicGaussian,
    gaussian_sw_bdf2_flow,
    gaussian_sw_bdf2_step,
    gaussian_sw_jko_flow,
    gaussian_sw_jko_step,
    isotropic_sw_jko_step,
)

__all__ = [
    "Gaussian",
    "IsotropicGaussian",
    "gaussian_jko_flow",
    "gaussian_jko_step",
    "gaussian_sw2_pow",
    "gaussian_sw_bdf2_flow",
    "gaussian_sw_bdf2_step",
    "gaussian_sw_jko_flow",
    "gaussian_sw_jko_step",
    "gaussian_w2_pow",
    "isotropic_sw_jko_step",
    "ornstein_uhlenbeck",
]
