"""How lambda moves: by a rule that was written down, or by one that was learned.

A rule is called once a step, and returns where lambda goes and what the rule wants to remember::

    lambda, memory = rule(signal, memory),    memory = rule.remember(lambda) at the start

Source: Andrychowicz et al. (2016), Learning to learn by gradient descent by gradient descent; Marino, Yue & Mandt (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tightbound.arguments import count, one_of, positive
from tightbound.device import seeded

INPUTS = ("gradient", "errors", "both")


class Signal(NamedTuple):
    """What a rule is shown at a step.

    Attributes:
        lam: where lambda is, (B, 2, d).
        gradient: of the bound, (B, 2, d), in nats.
        errors: a function without arguments that returns the errors (B, D + d); only who asks for them pays.
        step: the number of the step, from 0.
    """

    lam: Tensor
    gradient: Tensor
    errors: Callable[[], Tensor]
    step: int


class Ascent(nn.Module):
    """Gradient ascent: lambda <- lambda + rate * v, with v <- momentum * v + gradient.

    Args:
        rate: the step size; it is kept as its logarithm, a parameter, and learned where the inference is trained.
        momentum: from 0 to below 1.
        clip: the longest that a datum's gradient may be; longer ones are shortened.
        through: let the training look through the gradient, with second derivatives: the semi-amortised VAE.

    Source: Kim, Wiseman, Miller, Sontag & Rush (2018), Semi-amortized variational autoencoders, for `through`.
    """

    needs_errors = False

    def __init__(self, rate: float = 0.1, *, momentum: float = 0.0, clip: float = 10.0, through: bool = False):
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(positive("rate", rate)).log())
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {momentum!r}")
        self.momentum, self.clip, self.through = momentum, positive("clip", clip), through

    def remember(self, lam: Tensor) -> Tensor:
        return torch.zeros_like(lam)

    def forward(self, signal: Signal, memory: Tensor) -> tuple[Tensor, Tensor]:
        length = signal.gradient.flatten(1).norm(dim=1)[:, None, None]
        memory = self.momentum * memory + signal.gradient * (self.clip / length.clamp(min=self.clip))
        return signal.lam + self.log_rate.exp() * memory, memory


class Adam(nn.Module):
    """Adam's rule, for each number of each datum by itself::

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   lambda <- lambda + rate m^ / (v^^(1/2) + 1e-8)

    with m^ = m / (1 - b1^t), v^ = v / (1 - b2^t).

    Args:
        rate: the step size, or a function of the step, from 0.

    Source: Kingma & Ba (2015), Adam: a method for stochastic optimization.
    """

    needs_errors = through = False

    def __init__(self, rate: float | Callable[[int], float] = 0.1, *, betas: tuple[float, float] = (0.9, 0.999)):
        super().__init__()
        self.rate, self.betas = rate if callable(rate) else positive("rate", rate), betas

    def remember(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(lam), torch.zeros_like(lam)

    def forward(self, signal: Signal, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        (m, v), (b1, b2), t = memory, self.betas, signal.step + 1
        m = b1 * m + (1 - b1) * signal.gradient
        v = b2 * v + (1 - b2) * signal.gradient.square()
        rate = self.rate(signal.step) if callable(self.rate) else self.rate
        move = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + 1e-8)
        return signal.lam + rate * move, (m, v)


def log_scaled(x: Tensor, p: float = 10.0) -> Tensor:
    """Two numbers for one: its size on a logarithmic scale, and its sign. (B, n) gives (B, 2n)::

        (log|x| / p, sign x)    where |x| >= exp(-p),    else (-1, exp(p) x)

    Source: Andrychowicz et al. (2016), appendix A.
    """
    large = x.abs() >= torch.e**-p
    size = torch.where(large, x.abs().clamp(min=torch.e**-p).log() / p, -1.0)
    return torch.cat([size, torch.where(large, x.sign(), torch.e**p * x)], -1)


class Learned(nn.Module):
    """An inference model: a network that looks at lambda and at what the model sends back, and says where lambda should go::

        h       = network(lambda, gradient)   or   (lambda, errors)   or   (lambda, gradient, errors)
        gated:    lambda <- g * lambda + (1 - g) * W h,    g = sigmoid(V h + 2)
        else:     lambda <- lambda + W h

    Each trick is a switch. Nothing comes in about x but through the model: the same network serves any of the model's data,
    and what the structure of the model has to say comes along in its gradient.

    Args:
        dim: d.
        num_pixels: D, which is needed only where errors come in.
        inputs: "gradient", "errors" or "both".
        width: of the two hidden layers.
        gated: the network gives a new lambda and, a number each, a gate between the old and the new; else it gives the move.
        normalised: layer-normalise what comes in, beside its own length on a logarithmic scale.
        log_scaled: give each number of the gradient or the errors as a size and a sign (see `log_scaled`).
        recurrent: a GRU as second layer, with a memory from step to step.
        detached: training sees no further back than one step.
        told_step: the number of the step comes in too, as its logarithm.
        seed: of the first weights.

    Source: Marino, Yue & Mandt (2018); Andrychowicz et al. (2016) for log-scaled inputs and recurrence.
    """

    through = False

    def __init__(self, dim: int, *, num_pixels: int = 0, inputs: str = "gradient", width: int = 64, gated: bool = True,
                 normalised: bool = True, log_scaled: bool = False, recurrent: bool = False, detached: bool = False,
                 told_step: bool = False, seed: int = 0):
        super().__init__()
        self.dim, self.inputs = count("dim", dim, least=1), one_of("inputs", inputs, INPUTS)
        self.needs_errors = inputs != "gradient"
        if self.needs_errors and not num_pixels:
            raise ValueError("errors have D + d numbers: say num_pixels, the D of the data")
        self.gated, self.normalised, self.log_scaled = gated, normalised, log_scaled
        self.detached, self.told_step = detached, told_step
        sizes = {"gradient": [2 * dim], "errors": [num_pixels + dim], "both": [2 * dim, num_pixels + dim]}[inputs]
        size = 2 * dim + told_step + sum(n * (1 + log_scaled) + normalised for n in sizes)
        with seeded(seed):
            self.first = nn.Linear(size, count("width", width, least=1))
            self.second = nn.GRUCell(width, width) if recurrent else nn.Linear(width, width)
            self.move = nn.Linear(width, 2 * dim)
            self.gate = nn.Linear(width, 2 * dim) if gated else None
        nn.init.zeros_(self.move.bias)
        with torch.no_grad():
            if gated:
                self.gate.bias.fill_(2.0)      # at first lambda moves little, whatever comes in
            else:
                self.move.weight.mul_(0.1)

    recurrent = property(lambda self: isinstance(self.second, nn.GRUCell))

    def remember(self, lam: Tensor) -> Tensor | None:
        return lam.new_zeros(len(lam), self.second.hidden_size) if self.recurrent else None

    def _seen(self, signal: Signal) -> Tensor:
        kinds = {"gradient": lambda: signal.gradient.flatten(1), "errors": signal.errors}
        parts = [signal.lam.flatten(1)]
        for word in ("gradient", "errors") if self.inputs == "both" else (self.inputs,):
            x = kinds[word]().detach()
            if self.normalised:
                parts.append(x.norm(dim=-1, keepdim=True).clamp(min=1e-8).log() / 5)
            x = log_scaled(x) if self.log_scaled else x
            parts.append(F.layer_norm(x, x.shape[-1:]) if self.normalised else x)
        if self.told_step:
            parts.append(torch.full_like(parts[0][:, :1], float(signal.step + 1)).log())
        return torch.cat(parts, -1)

    def forward(self, signal: Signal, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.detached:
            signal = signal._replace(lam=signal.lam.detach())
            memory = memory if memory is None else memory.detach()
        h = torch.tanh(self.first(self._seen(signal)))
        h = self.second(h, memory) if self.recurrent else torch.tanh(self.second(h))
        said, memory = self.move(h).unflatten(-1, (2, self.dim)), h if self.recurrent else None
        if not self.gated:
            return signal.lam + said, memory
        gate = torch.sigmoid(self.gate(h)).unflatten(-1, (2, self.dim))
        return gate * signal.lam + (1 - gate) * said, memory
