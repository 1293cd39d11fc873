"""The explorers of the chapter on stochastic variational inference."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from tightbound import divergences, figures, problems, svi
from tightbound.data import breast_cancer
from tightbound.distributions import DiagonalGaussian
from tightbound.explore import Area, Choice, Explorer, Line, Points, Slider

T = 400                                                  # steps of a climb
SIZES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
SAMPLES = (1, 4, 16)
START = (-3.0, 2.5, 0.0, 0.0)                            # means of mu and log tau, log standard deviations
LOWEST = -40.0                                           # nats, where the picture of the bounds ends


def _sizes(rho: float, schedule: str) -> torch.Tensor:
    """rho_t of a climb, (T,)."""
    t = torch.arange(T, dtype=torch.float64)
    return rho * (torch.ones_like(t) if schedule == "constant" else (1 + t / 20) ** -0.7)


@lru_cache(maxsize=None)
def _climbs(samples: int) -> dict[tuple[float, str], torch.Tensor]:
    """The paths (T + 1, 4) for all step sizes and schedules, side by side."""
    runs = [(rho, schedule) for rho in SIZES for schedule in ("constant", "falling")]
    path = svi.ascend(problems.eight_schools(), torch.stack([_sizes(*run) for run in runs], -1),
                      start=torch.tensor(START, dtype=torch.float64).expand(len(runs), -1), num_samples=samples, seed=1)
    return {run: path[:, r] for r, run in enumerate(runs)}


def _bounds(path: torch.Tensor) -> torch.Tensor:
    """The exact bound at every point (..., 4) of a path, by Gauss-Hermite nodes: (...)."""
    eps, log_share = divergences.normal_nodes(2, 400)
    mean, log_sd = path.unsqueeze(-2).chunk(2, -1)
    log_joint = problems.eight_schools().log_joint(mean + log_sd.exp() * eps)
    return (log_share.exp() * log_joint).sum(-1) + path[..., 2:].sum(-1) + math.log(2 * math.pi * math.e)


def steps() -> Explorer:
    """Plain stochastic gradient ascent on eight schools: its path, the cloud in which it ends, and the cloud's mean."""
    problem = problems.eight_schools()
    best = divergences.approximate(problem, family="diagonal", num_starts=1, max_iterations=100, num_samples=100)
    top = float(best.history[-1])

    def climb(rho, samples, schedule):
        path = _climbs(samples)[rho, schedule]
        average = path[T // 2:].mean(0)
        shown = path[::4]
        bound_average = float(_bounds(average))
        q = DiagonalGaussian(average[:2], average[2:].exp())
        return {"x": shown[:, 0], "y": shown[:, 1].exp(), "cloud_x": path[T // 2::4, 0], "cloud_y": path[T // 2::4, 1].exp(),
                "average_x": [float(q.mean[0])], "average_y": [float(q.mean[1].exp())],
                "bounds": _bounds(shown).clamp(min=LOWEST), "last": top - float(_bounds(path[-100:]).mean()),
                "bound_average": bound_average, "missing": max(top - bound_average, 0.0), "sd_mu": float(q.stddev[0]),
                "sd_tau": float(q.stddev[1]), "averaged": [max(bound_average, LOWEST)] * 2}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(7.4, 3.6))
        x, y = np.linspace(-8, 17, 121), np.geomspace(0.3, 40, 121)
        log_joint = problem.log_joint(torch.tensor(np.stack(np.meshgrid(x, np.log(y)), -1))).numpy()
        levels = log_joint.max() - 0.5 * np.array([4.0, 3.0, 2.0, 1.0, 0.3]) ** 2
        left.contour(x, y, log_joint, levels=levels, colors=figures.colour("truth"), linewidths=1.1, linestyles="solid")
        left.set(xlim=(-8, 17), ylim=(0.3, 40), yscale="log", xlabel="mu, the mean effect", ylabel="tau, the spread (log scale)")
        left.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        left.minorticks_off()
        left.plot(best.q.mean[0], best.q.mean[1].exp(), "x", color=figures.colour("truth"), ms=9, mew=2)
        right.set(xlim=(0, T), ylim=(-37, -30.7), xlabel="steps", ylabel="nats")
        right.axhline(float(problem.log_evidence), **figures.line("truth"))
        right.text(T, float(problem.log_evidence) + 0.08, "log p(x)", ha="right", va="bottom", color=figures.colour("truth"))
        return fig

    return Explorer(
        [climb],
        {"rho": Slider("step size", SIZES, 0.1), "samples": Slider("draws of z a step", SAMPLES, 1),
         "schedule": Choice("schedule", ["constant", "falling"], "constant")}, figure,
        [Line(x="x", y="y", label="means of q, step by step", width=1.2), Points(x="cloud_x", y="cloud_y", size=2.5),
         Points(x="average_x", y="average_y", role="accent", size=6, shape="square", label="average of the second half"),
         Line(axes=1, x=np.arange(0, T + 1, 4), y="bounds", role="bound", label="bound of each iterate (exact)"),
         Line(axes=1, x=[T / 2, T], y="averaged", role="accent", label="bound of the average")],
        title="Explorer: steps in the dark",
        alt="""Left, contours of the eight-schools posterior over mu and tau, and the path that the mean of a Gaussian q takes
            by noisy gradient steps from the upper left, with a cross at the best q and a square at the average of the second
            half of the path. Right, the exact bound of every iterate in nats, under the line of log p(x). Small steps draw a
            smooth line that has not arrived after four hundred steps; large ones arrive at once and then dance around the
            cross in a cloud, the wider the fewer draws; the square sits near the cross. With falling steps the cloud
            shrinks on the way.""",
        readout=["the last hundred iterates lie {last:.2f} nats below the best diagonal q, on average; the average of the second half {missing:.3f}",
                 "the average's standard deviations: {sd_mu:.1f} in mu, {sd_tau:.1f} in log tau; the best: "
                 f"{float(best.q.stddev[0]):.1f} and {float(best.q.stddev[1]):.1f}"])


KAPPAS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TAUS = (0, 1, 3, 10, 30, 100)
BATCHES = (1, 4, 16, 64)
PASSES, RUNS = 4, 64


@lru_cache(maxsize=None)
def _flips() -> np.ndarray:
    return breast_cancer(()).y.numpy()[:512]


@lru_cache(maxsize=None)
def _walks(batch: int) -> dict[tuple[float, int], np.ndarray]:
    """Beta parameters (steps + 1, RUNS, 2) for every kappa and tau, each run with orders of the data of its own."""
    y, rng = _flips(), np.random.default_rng(0)
    order = np.concatenate([rng.permuted(np.tile(y, (RUNS, 1)), axis=1) for _ in range(PASSES)], 1)
    heads = order.reshape(RUNS, -1, batch).sum(-1).T                                    # (steps, RUNS)
    target = 1 + len(y) / batch * np.stack([heads, batch - heads], -1)
    pairs = [(kappa, tau) for kappa in KAPPAS for tau in TAUS]
    kappa, tau = (np.array(column, dtype=float)[:, None, None] for column in zip(*pairs))
    walk = [np.full((len(pairs), RUNS, 2), 2.0)]
    for t, hat in enumerate(target, start=1):
        rho = (t + tau) ** -kappa
        walk.append((1 - rho) * walk[-1] + rho * hat)
    return {pair: np.stack([at[i] for at in walk]) for i, pair in enumerate(pairs)}


def _kl_beta(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    make = torch.distributions.Beta
    return torch.distributions.kl_divergence(make(*q.unbind(-1)), make(*p.unbind(-1)))


def rates() -> Explorer:
    """Natural-gradient steps with rho_t = (t + tau)^-kappa on a conjugate model whose posterior is known."""
    y = _flips()
    exact = torch.tensor([1 + y.sum(), 1 + len(y) - y.sum()])
    p = np.linspace(0.45, 0.9, 151)
    density = lambda at: torch.distributions.Beta(*at).log_prob(torch.tensor(p)).exp()
    every = np.unique(np.concatenate([[1], np.geomspace(64, PASSES * len(y), 36).round()]).astype(int) // 64 * 64).clip(64)
    every = np.unique(every)                                                             # data seen, at batch 64 a step each

    def walk(kappa, tau, batch):
        path = torch.tensor(_walks(batch)[kappa, tau])[every // batch]                   # (looks, RUNS, 2)
        gaps = _kl_beta(path, exact)
        after = {"one": int(np.searchsorted(every, len(y))), "four": len(every) - 1}
        mean = gaps.mean(1)
        return {"q": density(path[after["one"], 0]), "one_run": gaps[:, 0].clamp(1e-4, 1e3), "mean": mean.clamp(1e-4, 1e3),
                "after_one": _shown(mean[after["one"]]), "after_four": _shown(mean[after["four"]]), "number": len(y) // batch}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(7.4, 3.4))
        left.set(xlim=(p[0], p[-1]), ylim=(0, 26), xlabel="share of benign tumours", ylabel="density, after one pass", yticks=[])
        right.set(xlim=(64, PASSES * len(y)), ylim=(1e-4, 1e2), xscale="log", yscale="log", xlabel="data seen", ylabel="gap, nats")
        right.axvline(len(y), color=figures.colour("faint"), lw=1)
        right.set_xticks([64, 128, 256, 512, 1024, 2048], ["64", "128", "256", "512", "1024", "2048"])
        right.minorticks_off()
        return fig

    return Explorer(
        [walk],
        {"kappa": Slider("forgetting kappa", KAPPAS, 0.7), "tau": Slider("delay tau", TAUS, 1),
         "batch": Slider("data a step", BATCHES, 4)}, figure,
        [Area(x=p, high=density(exact), role="truth", alpha=0.15), Line(x=p, y=density(exact), role="truth", label="exact posterior"),
         Line(x=p, y="q", label="q of one run"),
         Line(axes=1, x=every, y="mean", role="bound", label=f"gap, mean of {RUNS} runs"),
         Line(axes=1, x=every, y="one_run", role="approximation", width=1.2, label="gap of one run")],
        title="Explorer: how fast to forget",
        alt="""Left, the exact posterior of a share and the q that one pass of natural-gradient steps has found. Right, the gap in
            nats against the data seen, both on logarithmic scales, for one run and for the mean of 64. With kappa 0 the gap
            stays where it is, large; with kappa one half and no delay it falls slowly; with kappa 1 and no delay it falls to
            nothing exactly where all data have been seen once; with a long delay it falls late.""",
        readout=["rho_t = (t + {tau:d})^−{kappa:.1f}, {number:d} steps a pass over 512 tumours",
                 "mean gap after one pass {after_one:.4f} nats, after four {after_four:.4f}"])


def _shown(number: torch.Tensor) -> float:
    return max(float(number), 0.0)
