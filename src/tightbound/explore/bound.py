"""The moving picture of the title page: a bound that tightens."""

from __future__ import annotations

import math

import numpy as np
import torch

from tightbound import figures, problems
from tightbound.explore import Area, Explorer, Line, Slider, Text

STEPS = 60


def tightening() -> Explorer:
    """A Gaussian q climbs the evidence lower bound of a skewed posterior; bound and gap add up to log p(x) all the way."""
    problem = problems.coin(heads=1, tails=5, a=1.0, b=1.0)
    grid = torch.linspace(-9.0, 5.0, 281, dtype=torch.float64)
    log_joint = problem.log_joint(grid.unsqueeze(-1))
    width, exact = float(grid[1] - grid[0]), float(problem.log_evidence)
    posterior = torch.exp(log_joint - exact)
    path = _ascend(grid, log_joint, width)

    def frame(step):
        mean, log_sd = path[step]
        log_q = _log_normal(grid, mean, log_sd)
        elbo = float(width * (log_q.exp() * (log_joint - log_q)).sum())
        return {"q": log_q.exp(), "elbo": elbo, "gap": exact - elbo, "evidence": exact, "top": [elbo, elbo],
                "middle": 0.5 * (elbo + exact) if exact - elbo > 0.6 else math.nan}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(7.2, 3.1), gridspec_kw={"width_ratios": [3, 1.2]})
        left.set(xlim=(-9, 5), ylim=(0, 0.72), yticks=[], xlabel="z, the latent", ylabel="density")
        right.set(xlim=(0, 1), ylim=(-12, -3), xticks=[], ylabel="nats")
        right.axhline(exact, **figures.line("truth"))
        right.text(0.5, exact + 0.2, "log p(x)", ha="center", color=figures.colour("truth"))
        return fig

    return Explorer(
        [frame], {"step": Slider("steps of ascent", range(STEPS + 1), 0, play="auto")}, figure,
        [Area(x=grid.numpy(), high=posterior.numpy(), role="truth", alpha=0.15),
         Line(x=grid.numpy(), y=posterior.numpy(), role="truth", label="posterior p(z | x)"),
         Line(x=grid.numpy(), y="q", label="approximation q(z)"),
         Area(axes=1, x=[0.15, 0.85], low=-12.0, high="top", role="bound", alpha=0.55, label="bound: E_q[log p(x,z) − log q(z)]"),
         Area(axes=1, x=[0.15, 0.85], low="top", high=np.full(2, exact), role="approximation", alpha=0.35,
              label="gap: KL(q ‖ p(z | x))"),
         Text(axes=1, x=0.5, y="middle", text="{gap:.2f}", align="center")],
        alt="""Left, a skewed posterior density and a Gaussian that starts too far right and too wide, then moves under the
            posterior and takes its width. Right, a column in nats: the lower bound rises towards a line at log p(x), and
            the gap above it shrinks from several nats to a few hundredths. Bound and gap always add up to log p(x).""",
        readout=["log p(x) = bound + gap: {evidence:.3f} = {elbo:.3f} + {gap:.3f} nats"])


def _log_normal(z, mean, log_sd):
    return -0.5 * ((z - mean) * torch.exp(-log_sd)) ** 2 - log_sd - 0.5 * math.log(2 * math.pi)


def _ascend(grid, log_joint, width) -> list[torch.Tensor]:
    """The path (mean, log standard deviation) of gradient ascent on the bound, its integral done on the grid."""
    q = torch.tensor([2.0, 0.35], dtype=torch.float64, requires_grad=True)
    path = [q.detach().clone()]
    for _ in range(STEPS):
        log_q = _log_normal(grid, *q)
        elbo = width * (log_q.exp() * (log_joint - log_q)).sum()
        (gradient,) = torch.autograd.grad(elbo, q)
        q = (q + 0.07 * gradient).detach().requires_grad_(True)
        path.append(q.detach().clone())
    return path
