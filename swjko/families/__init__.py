"""Families of measures: what a scheme minimises over."""
