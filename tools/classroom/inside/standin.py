"""Stands where `tightbound.checks` is, in the place where a student's code is marked.

It knows no right answer. A check asks the judge, a process outside, for instances, hands back what the student's
function answers, and shows what the judge says of it. Whatever a student does to this file changes only what is shown.
"""

import json
import os
import pickle
import socket
import struct

LENGTH = struct.Struct(">Q")


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket, limit: int = 2**30) -> bytes:
    """One message.

    Raises:
        ValueError: for one that is longer than the limit, or ends early.
    """
    size, = LENGTH.unpack(_read(connection, LENGTH.size))
    if size > limit:
        raise ValueError(f"a message of {size} bytes")
    return _read(connection, size)


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 2**16))
        if not piece:
            raise ValueError("the message ends early")
        data += piece
    return bytes(data)


def personal(student) -> None:
    """The judge draws the data, whatever the name."""


class CheckFailed(AssertionError):
    """The answer is not right yet; the message says why."""

    def _render_traceback_(self):
        return [f"✗ {self}"]


class Elsewhere:
    def __repr__(self) -> str:
        return "Hints open in your own copy."


class Check:
    """A check by name; the judge knows the rest."""

    hints = Elsewhere()

    def __init__(self, topic: str, name: str):
        self.topic, self.name = topic, name

    def __call__(self, function, *, seed=None) -> None:
        from tightbound.checks.answers import collect, encode

        with socket.socket(socket.AF_UNIX) as judge:
            judge.connect(os.environ["TIGHTBOUND_JUDGE"])
            send(judge, json.dumps([self.topic, self.name]).encode())
            seconds, instances, probe = pickle.loads(receive(judge))
            send(judge, encode(collect(function, instances, seconds, probe)))
            passed, text = json.loads(receive(judge))
        if not passed:
            raise CheckFailed(text)
        print(text)

    def __repr__(self) -> str:
        return f"Check({self.name!r})"


class Topic:
    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Check:
        if name.startswith("_"):
            raise AttributeError(name)
        return Check(self._name, name)


def __getattr__(name: str) -> Topic:
    if name.startswith("_"):
        raise AttributeError(name)
    return Topic(name)
