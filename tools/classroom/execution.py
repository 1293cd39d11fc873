"""Runs one submission in its sandbox, and writes what the judge found into it.

nbclient talks to the kernel. What the kernel says is shown, but decides nothing.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from pathlib import Path

import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_output

from classroom.judge import Judge, Verdict
from classroom.nbgrader_course import NotMarkable, is_setup
from classroom.sandbox import MB, Limits, Watch, room

SETUP_SECONDS = 300  # for the assignment's own first cell: importing takes long on a busy machine
LATE = "CellTimeoutError"
NO_VERDICTS = ("timed out", "left out", "never asked")


class NotStarted(NotMarkable):
    """No fault of the submission's: it is worth another try."""


class Ended(Exception):
    """A cell took the kernel with it; holds the cell's place and what it did."""


def execute(notebook, tests: dict[str, str], topic: str, student: str, *, isolation, files: list[Path], secret: bytes,
            limits: Limits) -> tuple[dict[str, Verdict], list[str]]:
    """Runs the notebook from the top, again without any cell that ends the kernel; fills in the outputs.

    Args:
        tests: the names of the test cells, each with the check that it calls.
        files: what lies beside the notebook.

    Returns:
        the verdict on every test cell, and remarks on cells that ran out of time or were left out.

    Raises:
        NotMarkable: when it ends the kernel too often, or needs too long.
    """
    end, left_out = time.monotonic() + limits.total, {}
    for _ in range(limits.starts):
        try:
            verdicts, late = asyncio.run(_run(notebook, tests, topic, student, left_out, end, isolation, files, secret,
                                              limits))
            break
        except Ended as reason:
            index, why = reason.args
            left_out[index] = f"{_name(notebook, index)} {why}, and was left out"
    else:
        raise NotMarkable(f"run {limits.starts} times, and each time another cell had to be left out: "
                          + "; ".join(left_out.values()))
    for index, remark in left_out.items():
        notebook.cells[index].outputs = [_error("LeftOut", f"{remark} when the notebook was run again.")]
    found = {}
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name in tests:
            found[name] = verdicts.get(name) or _no_verdict(cell)
            _write(found[name], cell)
    remarks = {index: f"{_name(notebook, index)} timed out after {seconds:g} seconds" for index, seconds in late.items()}
    return found, [text for _, text in sorted({**remarks, **left_out}.items())]


async def _run(notebook, tests, topic, student, left_out, end, isolation, files, secret, limits):
    with room() as folder:
        judge = Judge(topic, secret, student, folder / "judge")
        command, environment, place = isolation.start(folder, files, limits)
        manager = AsyncKernelManager(transport="ipc", connection_file=str(folder / "kernel.json"))
        manager._kernel_spec = KernelSpec(argv=[*command, "-f", "{connection_file}", "--log-level=ERROR",
                                                "--HistoryManager.hist_file=:memory:"],
                                          language="python", display_name="sandbox", interrupt_mode="message")
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        await manager.start_kernel(env=environment, cwd=str(place), **quiet)
        watch = Watch(manager.provisioner.pid, folder, limits)
        client = Client(notebook, manager, judge, tests, watch, limits, end)
        try:
            await client.connect()
            await client.run(left_out)
            return judge.verdicts, client.late
        finally:
            watch.close()
            if client.kc is not None:
                client.kc.stop_channels()
            await manager.shutdown_kernel(now=True)
            judge.close()


class Client(NotebookClient):
    """Runs cells, each with its limits, tells the judge which, and keeps what they print as plain text and pictures."""

    def __init__(self, notebook, manager, judge: Judge, tests: dict[str, str], watch: Watch, limits: Limits, end: float):
        super().__init__(
            notebook, manager, allow_errors=True, interrupt_on_timeout=True, raise_on_iopub_timeout=True,
            iopub_timeout=limits.patience, timeout_func=self._seconds, on_cell_executed=self._executed,
            error_on_timeout={"ename": LATE, "evalue": "", "traceback": []})
        self.judge, self.tests, self.watch, self.limits, self.end = judge, tests, watch, limits, end
        self.late: dict[int, float] = {}
        self.room = 10 * self._kept_of_a_cell()  # in the whole notebook

    def _kept_of_a_cell(self) -> int:
        return self.limits.printed // 50

    async def connect(self) -> None:
        """Raises:
            NotStarted: when the kernel does not answer.
        """
        self.kc = self.km.client()
        self.kc.context.setsockopt(zmq.MAXMSGSIZE, self.limits.printed)  # a longer message is never taken up
        self.kc.start_channels()
        try:
            await self.kc.wait_for_ready(timeout=SETUP_SECONDS)
        except RuntimeError as error:
            raise NotStarted(f"the kernel did not start: {error}") from None
        self.kc.allow_stdin = False

    async def run(self, left_out) -> None:
        """Runs all cells but these.

        Raises:
            Ended: when a cell takes the kernel with it.
            NotMarkable: when all the time is used up.
        """
        for index, cell in enumerate(self.nb.cells):
            if cell.cell_type != "code" or index in left_out:
                continue
            name = cell.metadata.get("nbgrader", {}).get("grade_id")
            self.printed, self.kept, self.cut = 0, 0, False
            self.judge.turn_to(name if name in self.tests else None, self.tests.get(name))
            try:
                await self.async_execute_cell(cell, index, execution_count=self.code_cells_executed + 1)
            except NotMarkable:
                raise
            except Exception as error:  # the kernel is dead or deaf, or speaks what nobody understands
                raise Ended(index, self.watch.why or _why(error)) from None
            finally:
                self.judge.turn_to(None)
            if self.watch.why:
                raise Ended(index, self.watch.why)

    def _seconds(self, cell) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise NotMarkable(f"took longer than {self.limits.total} seconds in all")
        return min(left, self._allowed(cell))

    def _allowed(self, cell) -> float:
        """Seconds for a cell; a test has those of its check besides, which ends a student's function itself."""
        name = self.tests.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        return SETUP_SECONDS if is_setup(cell) else self.limits.seconds + (self.judge.allows(name) if name else 0)

    def _executed(self, cell, cell_index, execute_reply) -> None:
        if execute_reply["content"].get("ename") == LATE:
            self.late[cell_index] = self._allowed(cell)
            cell.outputs.append(_error(LATE, "The cell ran out of time."))

    def process_message(self, msg, cell, cell_index):
        """Keeps what can be shown; widgets and the like would ask for trust."""
        kind, content = msg["msg_type"], msg["content"]
        if kind in ("status", "clear_output"):
            return super().process_message(msg, cell, cell_index)
        output = _plain(kind, content)
        if output is None:
            return None
        size = len(str(output))
        self.printed += size
        if self.printed > self.limits.printed:
            self.watch.end(f"printed more than {self.limits.printed // MB} MB")
        if self.clear_before_next_output:
            cell.outputs, self.clear_before_next_output = [], False
        self._keep(output, size, cell.outputs)
        return None

    def _keep(self, output, size: int, outputs: list) -> None:
        left = min(self._kept_of_a_cell() - self.kept, self.room)
        if size > left:
            if not self.cut:
                outputs.append(new_output("stream", name="stdout", text="\n... and more, which is not kept.\n"))
            self.cut = True
        elif not self.cut:
            self.kept, self.room = self.kept + size, self.room - size
            last = outputs[-1] if outputs else {}
            if output.output_type == "stream" and last.get("name") == output.name:
                last.text += output.text
            else:
                outputs.append(output)


def _why(error: Exception) -> str:
    if isinstance(error, DeadKernelError):
        return "ended the kernel"
    if isinstance(error, CellTimeoutError):
        return "ran out of time and could not be interrupted"
    return "disturbed the messages of the kernel"


def _plain(kind: str, content: dict):
    """The output of a message as nbformat writes it, with text and pictures only; None for any other."""
    if kind == "stream" and content["name"] in ("stdout", "stderr"):
        return new_output("stream", name=content["name"], text=str(content["text"]))
    if kind == "error":
        return new_output("error", ename=str(content["ename"]), evalue=str(content["evalue"]),
                          traceback=[str(line) for line in content["traceback"]])
    if kind in ("display_data", "execute_result"):
        data = {form: text for form, text in content["data"].items() if isinstance(text, str) and (
            form == "text/plain" or form in ("image/png", "image/jpeg") and re.fullmatch(r"[\w+/=\s]*", text, re.A))}
        return new_output("display_data", data=data)
    return None


def _error(name: str, text: str):
    return new_output("error", ename=name, evalue=text, traceback=[f"✗ {text}"])


def _no_verdict(cell) -> Verdict:
    names = [output.ename for output in cell.outputs if output.output_type == "error"]
    if LATE in names:
        return Verdict("timed out", "The cell ran out of time.")
    if "LeftOut" in names:
        return Verdict("left out", "The cell was left out.")
    return Verdict("never asked", "The check came to no verdict: it never heard of a function to check.")


def _write(verdict: Verdict, cell) -> None:
    """Puts the verdict at the end of its cell, in place of what the kernel said about it.

    nbgrader takes a cell without an error for right, so no error means: the judge said so.
    """
    outputs = [output for output in cell.outputs if output.output_type == "stream"]
    for output in outputs:
        output.name = "stdout"  # nbgrader takes every word on stderr for a failure
    if verdict.passed:
        for output in outputs:
            output.text = output.text.replace(verdict.text + "\n", "")  # as the stand-in said it
        outputs.append(new_output("stream", name="stdout", text=verdict.text + "\n"))
    elif verdict.diagnosis in NO_VERDICTS and any(output.output_type == "error" for output in cell.outputs):
        outputs = [*outputs, *(output for output in cell.outputs if output.output_type == "error")]
    else:
        outputs.append(_error("CheckFailed", verdict.text))
    cell.outputs = outputs


def _name(notebook, index: int) -> str:
    return notebook.cells[index].metadata.get("nbgrader", {}).get("grade_id", f"cell {index + 1}")
