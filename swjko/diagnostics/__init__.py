"""Judging a result: values with standard errors, and certificates of steps."""
