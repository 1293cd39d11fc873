"""The classroom: students' copies of the exercises, and marks for the notebooks that come back.

    .venv/bin/python tools/classroom assignments      # make assignments
    .venv/bin/python tools/classroom grade FOLDER     # make grade SUBMISSIONS=FOLDER

Every topic has one source, chapters/exercises/<topic>/<topic>.ipynb, which is only read. nbgrader does the
work, on copies in _build/classroom/course, an ordinary nbgrader course.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from pathlib import Path

if not __package__:  # Python runs the folder; to its own modules it is a package all the same
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from classroom.assignments import write_assignments  # noqa: E402
from classroom.files import OUTPUT, ROOT, Trouble, find_topics  # noqa: E402
from classroom.marking import grade  # noqa: E402
from classroom.personal import read_class  # noqa: E402
from classroom.sandbox import MB, Limits  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="classroom", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    assign = commands.add_parser("assignments", help="write the students' copies of the exercises")
    assign.add_argument("--students", type=Path, metavar="CSV", help="write a version for each student named in the first column")
    mark = commands.add_parser("grade", help="mark a folder of submissions")
    mark.add_argument("folder", help="holds <student>/<topic>.ipynb or <student>/<topic>/<topic>.ipynb; "
                                     "also <student>.ipynb, and other names, where the "
                                     "notebook tells its topic")
    mark.add_argument("--timeout", type=int, default=60, metavar="SECONDS", help="for a cell (default: 60)")
    mark.add_argument("--total", type=int, default=900, metavar="SECONDS", help="for a submission (default: 900)")
    mark.add_argument("--memory", type=float, default=4, metavar="GB", help="for a submission (default: 4)")
    mark.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
                      help="submissions at a time (default: one for each core)")
    mark.add_argument("--fresh", action="store_true", help="run all anew, also what an earlier run has marked")
    mark.add_argument("--require-sandbox", action="store_true", help="mark nothing where bubblewrap does not work")
    mark.add_argument("--students", type=Path, metavar="CSV", help="tell who of those named in the first column handed in nothing")
    for command in (assign, mark):
        command.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR",
                             help=f"default: {OUTPUT.relative_to(ROOT)}")
        command.add_argument("--assignment", metavar="NAME", help="one topic only (default: all)")
    options = parser.parse_args(arguments)
    try:
        topics, output = find_topics(options.assignment), options.output.resolve()
        students = read_class(options.students) if options.students else []
        if options.command == "assignments":
            write_assignments(topics, output, students)
        else:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end the run in good order
            grade(options.folder, topics, output, limits_of(options), students=students, jobs=options.jobs, fresh=options.fresh,
                  require_sandbox=options.require_sandbox)
    except Trouble as trouble:
        sys.exit(f"\n{trouble}")
    except OSError as error:
        sys.exit(f"\n{explain(error)}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The submissions are as they were. What is marked is kept: run the same command again.")


def limits_of(options) -> Limits:
    """Raises:
        Trouble: for limits that leave nothing.
    """
    for name, least in (("timeout", 1), ("total", 1), ("memory", 0.5), ("jobs", 1)):
        if getattr(options, name) < least:
            raise Trouble(f"--{name} {getattr(options, name)} leaves nothing: give --{name} {least} or more.")
    return Limits(seconds=options.timeout, total=options.total, memory=int(options.memory * 1024 * MB))


def explain(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: make room, or give --output DIR on another disk, and run the command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename} may not be read or written: change its permissions, or give --output DIR."
    return f"The system says {error.strerror!r} of {error.filename}: mend that and run the command again."


if __name__ == "__main__":
    main()
