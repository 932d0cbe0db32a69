"""Wasserstein distances on the line and their averages over directions."""
