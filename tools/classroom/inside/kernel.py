"""Starts a Python kernel that may use only so much memory, write only so large a file, and start only so many threads.

    python kernel.py BYTES_OF_MEMORY BYTES_OF_A_FILE THREADS -f CONNECTION_FILE

THREADS counts those of processes too; 0 sets no limit.
"""

import resource
import sys


def limit(name: str, value: int) -> None:
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(kind, (value, value))
    except (ValueError, OSError):  # macOS knows some limits by name only
        pass


if __name__ == "__main__":
    limit("RLIMIT_AS", int(sys.argv.pop(1)))
    limit("RLIMIT_FSIZE", int(sys.argv.pop(1)))
    threads = int(sys.argv.pop(1))
    if threads:
        limit("RLIMIT_NPROC", threads)
    limit("RLIMIT_CORE", 0)
    sys.path.pop(0)  # this file's own folder

    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
