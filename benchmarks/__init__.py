"""The measurements behind every number that the project states: ``python -m benchmarks``, results as JSON in ``benchmarks/results``."""
