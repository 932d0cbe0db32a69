"""The measurements behind every number that the project states.

``python -m benchmarks NAME`` writes one of them as JSON into ``benchmarks/results``.
"""
