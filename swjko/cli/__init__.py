"""The command line, ``python -m swjko``."""
