"""Mean field where it was born: Ising's spins. Each spin feels its neighbours' average, and not what they
do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tightbound.estimate import Estimate
from tightbound.problems.discrete import Ising


@dataclass(frozen=True)
class Spins:
    """What a method says of an Ising model.

    Attributes:
        magnetisation: E[s_i], (size, size).
        correlation: E[s_i s_j], the mean over all neighbours.
        log_evidence: its estimate of log Z.
        history: the objective after every sweep, in nats.
    """

    magnetisation: Tensor
    correlation: float
    log_evidence: Estimate
    history: Tensor


def naive(model: Ising, *, start: float | Tensor = 0.5, num_sweeps: int = 2_000,
          tolerance: float = 1e-13) -> Spins:
    """Naive mean field: every spin independent, q(s) = prod_i q_i(s_i) with E[s_i] = m_i, by coordinate
    ascent::

        m_i  = tanh(beta J sum_{j next to i} m_j)
        ELBO = beta J sum_<ij> m_i m_j + sum_i H[q_i],      H = -(1+m)/2 log (1+m)/2 - (1-m)/2 log (1-m)/2

    On an even torus the black sites of the checkerboard have white neighbours only, so that each colour is
    one step.

    Args:
        start: the m_i to begin with, a number or (size, size).
        num_sweeps, tolerance: stop when no m_i moves by more.

    Raises:
        ValueError: for a start outside of [-1, 1] or of another shape.

    Source: Weiss (1907); MacKay (2003), chapter 33.
    """
    K, L = model.beta * model.J, model.size
    m, history = _start(start, L), []
    row, column = torch.arange(L).unsqueeze(1), torch.arange(L)
    colour = (row + column) % 2 if L % 2 == 0 else row * L + column
    for _ in range(num_sweeps):
        before = m
        for c in range(int(colour.max()) + 1):
            m = torch.where(colour == c, torch.tanh(K * _neighbours(m).sum(0)), m)
        history.append(_elbo(m, K))
        if bool((m - before).abs().max() <= tolerance):
            break
    pairs = 0.5 * (m * (m.roll(-1, 0) + m.roll(-1, 1))).mean()
    return Spins(m, float(pairs), Estimate(history[-1], "lower bound", source="naive mean field"),
                 torch.stack(history))


def _elbo(m: Tensor, K: float) -> Tensor:
    up = 0.5 * (1 + m)
    entropy = -(torch.special.xlogy(up, up) + torch.special.xlogy(1 - up, 1 - up)).sum()
    return K * (m * (m.roll(-1, 0) + m.roll(-1, 1))).sum() + entropy


def bethe(model: Ising, *, start: float | Tensor = 0.5, num_sweeps: int = 5_000, damping: float = 0.3,
          tolerance: float = 1e-12) -> Spins:
    """Bethe's approximation by belief propagation: neighbours agree on their pair, and the lattice is taken
    for a tree::

        u_{j->i} = atanh(tanh(beta J) tanh h_{j\\i}),      h_{j\\i} = sum_{k next to j, not i} u_{k->j}
        log Z    = sum_i log Z_i - sum_<ij> log Z_ij
        Z_i      = 2 cosh(sum_j u_{j->i}) prod_j cosh(beta J) / cosh(u_{j->i})
        Z_ij     = cosh(beta J) (1 + tanh(beta J) tanh h_{i\\j} tanh h_{j\\i})

    Exact on trees. In general it is no bound; with J > 0 it lies below log Z (Ruozzi 2012).

    Args:
        start: the spin's lean to begin with, a number or (size, size); 0 keeps the symmetric solution.
        num_sweeps, tolerance: stop when no message moves by more.
        damping: the share of the old message that is kept.

    Raises:
        ValueError: for a start outside of [-1, 1] or of another shape.
        RuntimeError: when the messages do not settle.

    Source: Bethe (1935); Yedidia, Freeman & Weiss (2005).
    """
    K, L = model.beta * model.J, model.size
    lean = _start(start, L).clamp(-0.999, 0.999)
    u, history = 0.25 * torch.atanh(lean).expand(4, L, L).clone(), []
    for _ in range(num_sweeps):
        new = torch.atanh(math.tanh(K) * torch.tanh(_cavities(u)))
        new = damping * u + (1 - damping) * new
        change, u = (new - u).abs().max(), new
        history.append(_log_bethe(u, K))
        if bool(change <= tolerance):
            break
    else:
        raise RuntimeError(f"the messages still move by {float(change):.1e} after {num_sweeps} sweeps: "
                           "damp them more, or start elsewhere")
    pair = (math.tanh(K) + _tanh_product(u)) / (1 + math.tanh(K) * _tanh_product(u))
    kind = "lower bound" if K >= 0 else "approximation"
    return Spins(torch.tanh(u.sum(0)), float(pair.mean()), Estimate(history[-1], kind, source="Bethe"),
                 torch.stack(history))


SHIFTS = ((1, 0), (-1, 0), (1, 1),
          (-1, 1))  # (places, axis) by which each of the four neighbours is brought to a site
BACK = (1, 0, 3, 2)                          # the direction in which that neighbour sees the site


def _neighbours(field: Tensor) -> Tensor:
    """The four neighbours of every site: (4, size, size)."""
    return torch.stack([field.roll(places, axis) for places, axis in SHIFTS])


def _cavities(u: Tensor) -> Tensor:
    """tanh-field of the neighbour in each direction, the site's own message left out: (4, size, size)."""
    without = u.sum(0) - u   # at a site: its field without the neighbour in direction d
    return torch.stack([without[BACK[d]].roll(*SHIFTS[d]) for d in range(4)])


def _tanh_product(u: Tensor) -> Tensor:
    """tanh h_{i\\j} tanh h_{j\\i} of every pair <ij>, each once: (2, size, size)."""
    return (torch.tanh(u.sum(0) - u) * torch.tanh(_cavities(u)))[[0, 2]]


def _log_bethe(u: Tensor, K: float) -> Tensor:
    field, log_cosh = u.sum(0), math.log(math.cosh(K))
    sites = torch.log(2 * torch.cosh(field)).sum() + (log_cosh - torch.log(torch.cosh(u))).sum()
    pairs = log_cosh + torch.log1p(math.tanh(K) * _tanh_product(u))
    return sites - pairs.sum()


def exact_spins(model: Ising) -> tuple[float, float]:
    """E|mean of all spins| and E[s_i s_j] of neighbours, by enumeration of all states of a lattice up to 4 x
    4.

    Raises:
        ValueError: for a larger lattice.
    """
    if model.num_sites > 16:
        raise ValueError(f"2^{model.num_sites} states are too many to enumerate: "
                         "give a lattice of size 4 or less")
    codes = torch.arange(2**model.num_sites).unsqueeze(-1) >> torch.arange(model.num_sites) & 1
    weight = torch.softmax(model.log_joint(codes), 0)
    spins = (2.0 * codes.double() - 1).unflatten(-1, (model.size, model.size))
    pairs = 0.5 * (spins * (spins.roll(-1, -1) + spins.roll(-1, -2))).mean((-2, -1))
    return float(weight @ spins.mean((-2, -1)).abs()), float(weight @ pairs)


def onsager(beta: float) -> tuple[float, float]:
    """The infinite lattice, J = 1: its magnetisation, and log Z a site in nats::

        m = (1 - sinh(2 beta)^-4)^(1/8)  above beta_c = log(1 + sqrt 2)/2 = 0.4407,  0 below
        log Z / N = log(2 cosh 2 beta) + 1/pi ∫_0^{pi/2} log((1 + sqrt(1 - k^2 sin^2 t))/2) dt
        k = 2 sinh(2 beta)/cosh(2 beta)^2

    Source: Onsager (1944); Yang (1952).
    """
    sinh, cosh = math.sinh(2 * beta), math.cosh(2 * beta)
    m = (1 - sinh**-4) ** 0.125 if sinh > 1 else 0.0
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) * (math.pi / 2 / 4000)
    k = 2 * sinh / cosh**2
    inner = torch.log(0.5 * (1 + torch.sqrt((1 - (k * torch.sin(t)) ** 2).clamp(min=0))))
    return m, math.log(2 * cosh) + float(inner.mean()) / 2


def _start(start: float | Tensor, size: int) -> Tensor:
    m = torch.as_tensor(start, dtype=torch.float64)
    if m.shape not in ((), (size, size)) or not bool((m.abs() <= 1).all()):
        raise ValueError(f"start must be a number in [-1, 1], or ({size}, {size}) of them, got {start!r}")
    return m.expand(size, size).clone()
