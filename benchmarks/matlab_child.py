"""Reads one struct of a MATLAB file and writes its fields x and t as .npz, in a process of its own.

SciPy's reader can end the process on a damaged file. Run as ``matlab_child.py NAME MOST``, with the
file as standard input; the archive is written to standard output. The last line of standard error
says what is wrong.
"""

import io
import sys

_MAX_BYTES, _MAX_SECONDS = 2**30, 8


def main(name: str, most: int) -> None:
    """Read the struct ``name`` from standard input.

    Args:
      name: The name of the struct.
      most: The most numbers in a field.
    """
    limit_resources()
    import numpy as np
    from scipy.io.matlab import loadmat, whosmat

    content = io.BytesIO(sys.stdin.buffer.read())
    names = [entry[0] for entry in whosmat(content)]
    if name not in names:
        sys.exit(f"no data set {name!r}; it holds {', '.join(names)[:200]}")
    content.seek(0)
    struct = loadmat(content, variable_names=[name])[name]
    if not {"x", "t"} <= set(struct.dtype.names or ()) or struct.size != 1:
        sys.exit(f"{name!r} must be a struct with fields x and t")
    fields = {field: np.asarray(struct[field].item()) for field in ("x", "t")}
    for field, values in fields.items():
        if values.dtype.kind not in "fiub":
            sys.exit(f"{name!r}: field {field} must hold real numbers; got {values.dtype}")
        if values.size > most:
            sys.exit(f"{name!r}: field {field} has {values.size} numbers; at most {most} fit")
    np.savez(sys.stdout.buffer, x=fields["x"], t=fields["t"])


def limit_resources() -> None:
    """Limit memory and processor time, where the system can."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_SECONDS, _MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
