"""Readers of tables and images."""
