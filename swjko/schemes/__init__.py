"""Time-stepping schemes: SW-JKO, its relatives, and the comparators."""
