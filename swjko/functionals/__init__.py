"""Functionals F(mu) of a probability measure, estimated on clouds."""
