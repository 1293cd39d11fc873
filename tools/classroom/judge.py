"""The judge: it knows the checks, and never runs a student's code.

The stand-in for the checks, among the student's code, asks it for instances, and tells it what the student's function
answered. The judge draws the instances anew for every call, from a secret, and holds the answers against the book's
own checks. What counts for a test cell is the last verdict while that cell runs, of the check that the cell names.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import json
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from classroom.files import Trouble
from classroom.inside.standin import receive, send
from classroom.submissions import known_cells
from tightbound.checks.answers import decode

CALLS = 20  # of checks, while one cell runs
RIGHT = "right"
LARGEST = 64 * 2**20  # bytes of a message from the student's side


@dataclass(frozen=True)
class Verdict:
    """What the judge finds: the name of the diagnosis ("right" for an answer that is), and what the student is told."""

    diagnosis: str
    text: str

    @property
    def passed(self) -> bool:
        return self.diagnosis == RIGHT


def checks_of(notebook) -> tuple[str, dict[str, str]]:
    """The topic that an assignment imports its checks from, and the check that each of its test cells calls.

    Raises:
        Trouble: for an assignment of another form, which the judge could not mark.
    """
    cells = known_cells(notebook)
    found = [re.search(r"^from tightbound\.checks import (\w+) as check$", cell.source, re.M) for cell in cells.values()
             if cell.metadata.nbgrader.locked]
    topics = [match.group(1) for match in found if match]
    if len(topics) != 1:
        raise Trouble("An assignment needs one locked cell that says `from tightbound.checks import TOPIC as check`.")
    tests = {}
    for name, cell in cells.items():
        if cell.metadata.nbgrader.grade:
            call = re.fullmatch(r"check\.(\w+)\(\w+\)", cell.source.strip())
            if not call:
                raise Trouble(f"The test cell {name!r} should be one call of a check, `check.NAME(NAME)`: "
                              "marks come from the checks alone.")
            tests[name] = call.group(1)
    return topics[0], tests


class Judge:
    """Answers the checks of one submission, at a socket.

    Args:
        topic: whose checks are asked for.
        secret: what the seeds of the instances come from, with the student's name and the number of the call.
        student: the name.
        place: where the socket lies.
    """

    def __init__(self, topic: str, secret: bytes, student: str, place: Path):
        import cloudpickle

        self.checks = importlib.import_module(f"tightbound.checks.{topic}")
        cloudpickle.register_pickle_by_value(self.checks)  # for its module is not there, where it is unpickled
        self.topic, self.secret, self.student = topic, secret, student
        self.verdicts: dict[str, Verdict] = {}
        self.cell, self.wanted, self.calls, self.calls_here = None, None, 0, 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(place))
        self.listener.listen(8)
        self.connection = None
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def turn_to(self, cell: str | None, wanted: str | None = None) -> None:
        """From now on this test cell runs, which asks for that check; None for a cell that is no test."""
        self.cell, self.wanted, self.calls_here = cell, wanted, 0

    def allows(self, name: str) -> float:
        """Seconds that a check gives a student's function."""
        return getattr(self.checks, name).seconds

    def close(self) -> None:
        self.turn_to(None)
        for end in (self.listener, self.connection):
            if end is not None:
                try:
                    end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
                except OSError:
                    pass
                end.close()
        self.thread.join()

    def _serve(self) -> None:
        while True:
            try:
                self.connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            with self.connection:
                try:
                    self._hear(self.connection)
                except Exception:  # whoever talks so is not our stand-in, or is gone: the judge hears the next
                    pass

    def _hear(self, connection: socket.socket) -> None:
        import cloudpickle

        cell, wanted = self.cell, self.wanted
        topic, name = json.loads(receive(connection, 1000))
        check = getattr(self.checks, name)
        self.calls, self.calls_here = self.calls + 1, self.calls_here + 1
        if topic != self.topic or self.calls_here > CALLS:
            raise ValueError("another topic's check, or too many calls")
        counts = cell is not None and name == wanted
        if counts:
            self.verdicts[cell] = Verdict("no answers", f"{name}: the check was called, but heard no answers.")
        instances = check.instances(self._seed(name))
        send(connection, cloudpickle.dumps((check.seconds, instances, check.probe)))
        found = check.judge(instances, decode(receive(connection, LARGEST)))
        verdict = Verdict(found[0] if found else RIGHT, check.verdict(found))
        if counts and self.cell == cell:
            self.verdicts[cell] = verdict
        send(connection, json.dumps([verdict.passed, verdict.text]).encode())

    def _seed(self, name: str) -> int:
        what = json.dumps([self.student, self.topic, name, self.calls]).encode()
        return int.from_bytes(hmac.digest(self.secret, what, hashlib.sha256))
