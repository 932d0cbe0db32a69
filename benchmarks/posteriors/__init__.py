"""Posteriors of Bayesian logistic regression compared with NUTS."""
