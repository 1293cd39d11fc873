"""One training loop for every network of the book: on a CPU or a GPU, in one process or in several.

The loop is four lines, in `fit`. Around it stand what long runs need: a progress bar, a checkpoint to go on from with the
same numbers, early stopping, and an error that names the images when a loss is no number any more.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import inspect
import io
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as processes
from torch import Tensor, nn
from tqdm import tqdm

from tightbound.arguments import count, one_of
from tightbound.device import generator, meet

LOOK = 50  # steps between two looks at the losses on a GPU, which would have to wait at each


class TrainingError(RuntimeError):
    """The objective is no finite number any more. `rows` are the rows of the data in the batch where it happened first."""

    def __init__(self, message: str, rows: Tensor):
        super().__init__(message)
        self.rows = rows


def fit(model: nn.Module, data: Tensor, objective: Callable[..., Tensor], *, num_epochs: int = 10, batch_size: int = 128,
        learning_rate: float | Callable[[int], float] = 1e-3, seed: int = 0, prepare: Callable[..., Tensor] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None, precision: str = "single",
        compiled: bool = False, stop: EarlyStopping | None = None, checkpoint: str | os.PathLike | None = None, save_every: float = 60.0,
        progress: bool | None = None) -> Tensor:
    """Maximises the mean of an objective over the rows of `data` by stochastic gradient ascent (Adam).

    Under ``torchrun`` each process takes its share of every batch, and DistributedDataParallel adds up the gradients: the
    steps are those of one process with the whole batch, but for the noise, of which each process has its own. A process on a
    GPU takes the one that ``LOCAL_RANK`` names: put model and data there.

    Args:
        model: its parameters are trained in place.
        data: (N, ...), on the model's device.
        objective: ``objective(model, x, generator=...) -> (B,)``, in nats, to be maximised; if it has an argument `step`, it
            is told the number of the step, from 0 (for a temperature that rises).
        num_epochs: passes through the data, those before a checkpoint included.
        learning_rate: a number, or a function of the epoch, from 0.
        seed: of the order of the rows and of the noise.
        prepare: ``prepare(x, generator=...)`` is done to every batch before the objective sees it: to draw black and white
            from grey, say (`binarise`).
        optimizer: ``optimizer(parameters, lr=...)``; `torch.optim.Adam` in its fused form, if left out.
        precision: "single" (or what the model is in), or "bfloat16", in which matrix products are then made: fast where the
            processor has it built in, and as good for these networks. Parameters and sums stay in single precision.
        compiled: turn the objective and its gradient into machine code first (`torch.compile`, with the objective as one graph).
            That takes a minute or so, then saves a quarter of the time or more; the numbers are the same but for rounding.
            Where it cannot be done (no C++ compiler, an objective that cannot be traced), a warning says so, and training
            goes on as ever.
        stop: `EarlyStopping`, to end when held-out data no longer gain; leaves the best model.
        checkpoint: a file to which all that is needed to go on is written every `save_every` seconds (under torchrun: after
            every epoch) and at the end. If it is there, training goes on from it, with the numbers it would have had.
        progress: a bar with the objective on stderr; if left out, where a terminal watches.

    Returns:
        The mean objective of every step, (steps,), in nats.

    Raises:
        TrainingError: when the objective is not finite; names the rows, and the model's parts that are not finite either.
        ValueError: for no data, data on another device than the model, numbers out of range, or a checkpoint that is damaged or
            belongs to another training.
    """
    if not isinstance(data, Tensor) or data.ndim < 1 or not len(data):
        raise ValueError(f"fit needs a tensor with at least one row of data, got {getattr(data, 'shape', data)!r}")
    meet(data, model, what="the data")
    autocast = _autocast(one_of("precision", precision, ("single", "bfloat16")), data.device)
    own_stream = torch.random.fork_rng([data.device] if data.is_cuda else [], enabled=compiled)  # a graph's noise is torch's own
    with own_stream, _products(precision):
        run = _Run(model, data, num_epochs, batch_size, learning_rate, seed, optimizer, compiled, stop, checkpoint, save_every,
                   progress)
        bound = run.joined(objective)
        for rows in run.batches():
            x = data.index_select(0, rows)
            if prepare is not None:
                x = prepare(x, generator=run.stream)
            with autocast:
                loss = -bound(x)
            run.record(rows, x, loss)
            run.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            run.optimizer.step()
        return run.finish()


def binarise(x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Black and white from grey, anew each time: black with the grey value's probability ("dynamic binarisation")."""
    return (torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) < x).to(x.dtype)


class EarlyStopping:
    """Ends a training when the mean objective of held-out data has not risen for a while, and keeps the best model.

    Args:
        data: held-out rows.
        patience: epochs without a new best value, after which training ends.
        objective: ``objective(model, x, generator=...) -> (B,)``; what is trained, if left out.
        prepare: done to the rows once, at the start.
        seed: of the noise, which is the same after every epoch, so that values compare.

    Attributes:
        history: the held-out objective after each epoch, in nats.
        best: the largest of them.
    """

    def __init__(self, data: Tensor, *, patience: int = 10, objective: Callable[..., Tensor] | None = None,
                 prepare: Callable[..., Tensor] | None = None, seed: int = 0):
        if not len(data):
            raise ValueError("early stopping needs held-out data, got none")
        self.patience, self.objective, self.seed = count("patience", patience, least=1), objective, seed
        self.data = data if prepare is None else prepare(data, generator=generator(seed, data.device))
        self.history: list[float] = []
        self.state: dict | None = None

    best = property(lambda self: max(self.history))

    def __call__(self, model: nn.Module, objective: Callable[..., Tensor]) -> bool:
        """Looks at the model after an epoch; true when it is time to end."""
        stream, training = generator(self.seed, self.data.device), model.training
        with torch.no_grad():
            model.eval()
            value = sum(float((self.objective or objective)(model, x, generator=stream).sum()) for x in self.data.split(1000))
            model.train(training)
        self.history.append(value / len(self.data))
        if self.history[-1] >= self.best:
            self.state = copy.deepcopy(model.state_dict())
        return len(self.history) - 1 - self.history.index(self.best) >= self.patience


# Around the loop ---------------------------------------------------------------------------------------------------

class _Run:
    """A training under way: what it goes by, and where it stands."""

    def __init__(self, model, data, num_epochs, batch_size, learning_rate, seed, optimizer, compiled, stop, checkpoint,
                 save_every, progress):
        self.num_epochs, self.batch_size = count("num_epochs", num_epochs, least=0), count("batch_size", batch_size, least=1)
        self.model, self.num_rows, self.device, self.stop = model, len(data), data.device, stop
        self.rate = learning_rate if callable(learning_rate) else lambda epoch: learning_rate
        self.rank, self.world = _join(data.device)
        self.stream, self.compiled = generator(seed + self.rank, data.device), compiled
        if compiled:
            if self.world > 1:
                raise ValueError("compiled=True is for one process: leave it out under torchrun")
            self.stream = torch.cuda.default_generators[data.device.index or 0] if data.is_cuda else torch.default_generator
            self.stream.manual_seed(seed)
        make = optimizer or (lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, fused=True))
        self.optimizer = make(model.parameters(), lr=0.0)  # set before every epoch
        self.epoch, self.position, self.order, self.ended = 0, 0, None, False
        self.losses, self.seen, self.shares = [], [], []
        self.signature = {"rows": len(data), "batch_size": batch_size, "seed": seed, "processes": self.world}
        self.path = Path(checkpoint) if checkpoint is not None else None
        if self.path is not None and self.path.exists():
            self._load()
        self.save_every, self.saved = save_every, time.monotonic()
        hidden = None if progress is None else not progress
        self.bar = tqdm(total=num_epochs * self.steps_an_epoch, initial=len(self.losses), unit="step",
                        disable=True if self.rank else hidden)
        self.shown = time.monotonic()

    steps_an_epoch = property(lambda self: -(-self.num_rows // self.batch_size))

    def joined(self, objective: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        """The mean of the objective over a batch, as a function of x; under torchrun, its gradient is that of all processes."""
        told = "step" in inspect.signature(objective).parameters
        self.objective = lambda model, x, generator: objective(
            model, x, generator=generator, **({"step": len(self.losses)} if told else {}))

        def total(x: Tensor) -> Tensor:
            return self.objective(self.model, x, self.stream).sum()

        if self.compiled and told:
            raise ValueError("an objective that asks for the step would be compiled anew at each: leave compiled out")
        if self.compiled:
            total = _Compiled(total, lambda x: objective(self.model, x, generator=None).sum(), self.batch_size)

        def mean(x: Tensor) -> Tensor:
            return total(x) / self.share

        return mean if self.world == 1 else nn.parallel.DistributedDataParallel(_Module(self.model, mean))

    def batches(self) -> Iterator[Tensor]:
        """The rows of one batch after the other, going on where the checkpoint stopped; this process's share of them."""
        while self.epoch < self.num_epochs and not self.ended:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(self.epoch)
            if self.order is None:
                self.order = torch.randperm(self.num_rows, generator=self.stream, device=self.device)
                if self.world > 1:
                    processes.broadcast(self.order, 0)
            for rows in self.order.split(self.batch_size)[self.position:]:
                self.share = len(rows) / self.world  # DistributedDataParallel averages over the processes
                yield rows.tensor_split(self.world)[self.rank] if self.world > 1 else rows
                self.position += 1
                if self.world == 1 and self.path and time.monotonic() - self.saved > self.save_every:
                    self._save()
            self._look()
            self.epoch, self.position, self.order = self.epoch + 1, 0, None
            self.ended = self.stop is not None and self.stop(self.model, self.objective)
            if self.world > 1 and self.path:
                self._save()

    def record(self, rows: Tensor, x: Tensor, loss: Tensor) -> None:
        """Notes the value of a step, shows it now and then, and stops at one that is no number."""
        self.losses.append(_averaged(loss.detach(), self.world))
        self.seen.append((rows, x))
        if self.device.type == "cpu" or len(self.seen) >= LOOK:
            self._look()
        self.bar.update()
        if time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            self.bar.set_postfix_str(f"objective {-float(self.losses[-1]):.3f} nats", refresh=False)

    def _look(self) -> None:
        """Were the objectives since the last look finite?"""
        since = self.losses[len(self.losses) - len(self.seen):]
        if not math.isfinite(sum(since)):
            since = torch.stack(since)
            first = int((~torch.isfinite(since)).nonzero()[0])
            rows, x = self.seen[first]
            step = len(self.losses) - len(self.seen) + first
            self.bar.close()
            raise TrainingError(f"the objective is {-float(since[first])} at step {step} (epoch {self.epoch}), on rows "
                                f"{rows.tolist()} of the data. {_diagnosis(self.model, rows, x)}", rows)
        self.seen = []

    def finish(self) -> Tensor:
        self._look()
        self.bar.close()
        if self.path and self.world == 1:
            self._save()
        if self.stop is not None and self.stop.state is not None:
            self.model.load_state_dict(self.stop.state)
        return -torch.stack(self.losses) if self.losses else torch.zeros(0, device=self.device)

    # The checkpoint

    def _save(self) -> None:
        """Writes the checkpoint beside its place and moves it there, so that there is always a whole one."""
        streams = [self.stream.get_state()]
        if self.world > 1:
            processes.all_gather_object(streams := [None] * self.world, self.stream.get_state())
        self.saved = time.monotonic()
        if self.rank == 0:
            self._write(streams)
        if self.world > 1:
            processes.barrier()  # lest one goes on and reads what another is still writing

    def _write(self, streams: list[Tensor]) -> None:
        content = io.BytesIO()
        torch.save({"signature": self.signature, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                    "streams": streams, "epoch": self.epoch, "position": self.position, "order": self.order,
                    "ended": self.ended, "losses": torch.stack(self.losses) if self.losses else None,
                    "held out": None if self.stop is None else (self.stop.history, self.stop.state)}, content)
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(fresh, "wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as problem:
            with contextlib.suppress(OSError):
                fresh.unlink()
            kept = "the one from before stands" if self.path.exists() else "there is none"
            warnings.warn(f"the checkpoint {self.path} could not be written ({problem}); {kept}, and training goes on. Make "
                          "room, or give another path", RuntimeWarning, stacklevel=5)

    def _load(self) -> None:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            found = state["signature"]
        except Exception as problem:  # what torch.load raises for a damaged file has no common class
            raise ValueError(f"{self.path} is no checkpoint, or a damaged one: remove it to start anew ({problem})") from None
        for name, value in self.model.state_dict().items():
            shape = tuple(state["model"][name].shape) if name in state["model"] else "missing"
            if shape != tuple(value.shape):
                raise ValueError(f"{self.path} belongs to another model: {name} is {shape} there, and {tuple(value.shape)} "
                                 "here. Give the model that it was made with, or another path")
        if found != self.signature or set(state["model"]) != set(self.model.state_dict()):
            raise ValueError(f"{self.path} belongs to another training, of {found}, and this one is of {self.signature}: give "
                             "the same, or another path")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stream.set_state(state["streams"][self.rank])
        self.epoch, self.position, self.ended = state["epoch"], state["position"], state["ended"]
        self.order = None if state["order"] is None else state["order"].to(self.device)
        self.losses = [] if state["losses"] is None else list(state["losses"].to(self.device).unbind())
        if self.stop is not None and state["held out"] is not None:
            self.stop.history, self.stop.state = state["held out"]


class _Compiled:
    """A function of a batch in machine code, for batches of one size; for others, and where that fails, as it is.

    Args:
        plain: the function.
        traced: the same one with noise from torch's own stream, for no other can be compiled.
    """

    def __init__(self, plain: Callable[[Tensor], Tensor], traced: Callable[[Tensor], Tensor], batch_size: int):
        # Noise from the stream that is used without compiling, too. One size: shapes that vary make slower code.
        self.plain, self.traced, self.batch_size, self.code = plain, traced, batch_size, None

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) != self.batch_size:
            return self.plain(x)
        if self.code is None:
            self.code = self._compile(x)
        return self.code(x)

    def _compile(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        device = x.device
        before = torch.cuda.get_rng_state(device) if x.is_cuda else torch.get_rng_state()
        self.traced(x)  # once as it is: bad data, and what is looked up only once, come before
        try:
            code = torch.compile(self.traced, fullgraph=True, dynamic=False, options={"fallback_random": True})
            code(x).backward()
        except Exception as problem:  # of many classes, and none of them in common
            reason = str(problem).strip().split("\n")[0]
            warnings.warn(f"the objective could not be compiled ({type(problem).__name__}: {reason}); training goes on without",
                          RuntimeWarning, stacklevel=5)
            code = self.plain
        torch.cuda.set_rng_state(before, device) if x.is_cuda else torch.set_rng_state(before)
        return code


class _Module(nn.Module):
    """A function as a module, for DistributedDataParallel knows only those."""

    def __init__(self, model: nn.Module, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _join(device: torch.device) -> tuple[int, int]:
    """This process's number and how many there are, as torchrun tells them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not processes.is_initialized():
        processes.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(processes.destroy_process_group)
    return (processes.get_rank(), processes.get_world_size()) if processes.is_initialized() else (0, 1)


def _averaged(value: Tensor, world: int) -> Tensor:
    """The mean over all processes."""
    if world > 1:
        processes.all_reduce(value := value.clone())
    return value / world if world > 1 else value


@contextlib.contextmanager
def _products(precision: str):
    """Has matrix products made in bfloat16 on a CPU that has it built in; what goes in and comes out is single precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bfloat16" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _autocast(precision: str, device: torch.device):
    """On a GPU the networks' answers are in bfloat16, too."""
    wanted = precision == "bfloat16" and device.type != "cpu"
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()


def _diagnosis(model: nn.Module, rows: Tensor, x: Tensor) -> str:
    """What else is not finite: pixels, parameters, the encoder's answer; in words."""
    def bad(values: Tensor) -> Tensor:
        return rows[~torch.isfinite(values.flatten(1)).all(1)].tolist()

    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if pixels := bad(x.float()):
        return f"The data are not finite in rows {pixels}: leave them out, or fill them in"
    if broken:
        return f"The parameters {', '.join(broken)} are not finite: a step before was too long; lower the learning rate"
    with torch.no_grad(), contextlib.suppress(Exception):
        q = model.posterior(x)
        for name in ("mean", "stddev"):
            if wrong := bad(getattr(q, name)):
                return (f"The encoder's {name} is not finite for rows {wrong}: it grew beyond what its exponential can hold; "
                        "lower the learning rate, or scale the data")
    return "Lower the learning rate, or look at these rows"
