"""The explorers of the chapter on the bound and EM."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from tightbound import em, figures, problems
from tightbound.device import generator
from tightbound.explore import Area, Arrows, Choice, Explorer, Line, Points, Slider, Text

FLOOR = -14.0  # where the bars of `faces` end


def faces() -> Explorer:
    """The coin: move a Gaussian q, and see its bound three times over, as three pairs of bars that end at one height."""
    heads, tails = 8, 1
    problem = problems.coin(heads, tails, a=1.0, b=1.0)
    evidence = float(problem.log_evidence)
    grid = torch.linspace(-5.0, 8.0, 105, dtype=torch.float64)
    posterior = torch.exp(problem.log_joint(grid.unsqueeze(-1)) - evidence)
    prior = torch.sigmoid(grid) * torch.sigmoid(-grid)  # Beta(1, 1) in logit p
    u = torch.linspace(-9.0, 9.0, 361, dtype=torch.float64)  # the trapezoidal rule for averages over q
    weight = torch.exp(-0.5 * u**2) / torch.exp(-0.5 * u**2).sum()

    @lru_cache(maxsize=None)
    def at(mean, sd):
        z = mean + sd * u
        log_sp, log_sm = torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)
        reconstruction = float(weight @ (heads * log_sp + tails * log_sm))
        entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(sd)
        energy = reconstruction + float(weight @ (log_sp + log_sm))
        elbo = energy + entropy
        q = torch.exp(-0.5 * ((grid - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))

        def text(low, high):
            """The middle of a block, where the block is high enough to write in."""
            low, high = max(low, FLOOR), max(high, FLOOR)
            return 0.5 * (low + high) if abs(high - low) > 0.75 else math.nan

        return {"q": q, "elbo": elbo, "evidence": evidence, "gap": evidence - elbo, "energy": energy, "entropy": entropy,
                "reconstruction": reconstruction, "complexity": reconstruction - elbo, "level": [elbo, elbo],
                "to_energy": [energy, energy], "to_fit": [reconstruction, reconstruction],
                "at_energy": text(energy, 0), "at_entropy": text(energy, elbo), "at_fit": text(reconstruction, 0),
                "at_complexity": text(elbo, reconstruction), "at_gap": text(elbo, evidence)}

    def figure():
        fig, (above, below) = figures.subplots(2, 1, figsize=(6.2, 4.9), gridspec_kw={"height_ratios": [1, 1.9]})
        above.set(xlim=(-5, 8), ylim=(0, 0.85), yticks=[], xlabel="z = logit p", ylabel="density")
        below.set(xlim=(0, 3), ylim=(FLOOR, 0.6), ylabel="nats",
                  xticks=[0.5, 1.5, 2.5])
        below.set_xticklabels(["mean log joint\n+ entropy", "reconstruction\n− complexity", "log p(x)\n− gap"], fontsize=10)
        below.axhline(0, color=figures.colour("faint"), lw=1)
        below.axhline(evidence, **figures.line("truth", lw=1.3))
        return fig

    def block(i, half, low, high, role, alpha):
        left = i + 0.06 + 0.45 * half
        return Area(axes=1, x=[left, left + 0.43], low=low, high=high, role=role, alpha=alpha)

    def number(i, half, y, name):
        return Text(axes=1, x=i + 0.275 + 0.45 * half, y=y, text=f"{{{name}:.2f}}", align="center")

    def two(value):
        return np.full(2, value)

    return Explorer(
        [at], {"mean": Slider("mean of q", np.linspace(-2, 5, 29).round(2), 0.0),
               "sd": Slider("standard deviation of q", [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 2, 2.5], 0.5)},
        figure,
        [Line(x=grid.numpy(), y=prior.numpy(), role="prior", label="prior p(z)"),
         Line(x=grid.numpy(), y=posterior.numpy(), role="truth", label="posterior p(z | x)"),
         Line(x=grid.numpy(), y="q", label="approximation q(z)"),
         block(0, 0, "to_energy", two(0.0), "truth", 0.3), block(0, 1, "to_energy", "level", "accent", 0.45),
         block(1, 0, "to_fit", two(0.0), "truth", 0.3), block(1, 1, "level", "to_fit", "prior", 0.6),
         block(2, 0, two(evidence), two(0.0), "truth", 0.3), block(2, 1, "level", two(evidence), "approximation", 0.45),
         Line(axes=1, x=[0.0, 3.0], y="level", role="bound", width=2.6, label="the bound, ELBO(q)"),
         number(0, 0, "at_energy", "energy"), number(0, 1, "at_entropy", "entropy"), number(1, 0, "at_fit", "reconstruction"),
         number(1, 1, "at_complexity", "complexity"), number(2, 0, two(evidence / 2), "evidence"), number(2, 1, "at_gap", "gap")],
        title="Explorer: three faces of the bound",
        alt="""Above, the posterior of a coin's logit p after eight heads and one tail, the wider prior, and a Gaussian q that can
            be moved and widened. Below, three pairs of bars hanging from zero, in nats. The first goes down by the mean log joint and
            up by the entropy of q; the second down by the reconstruction and further down by the complexity; the third down to
            log p(x) = −4.50 and further down by the gap. All three end at one height, the bound, which never lies above
            log p(x). The bound is highest, and the gap a few hundredths, with q over the posterior; a narrow q has a low
            entropy and a high complexity.""",
        readout=["E_q[log p(x,z)] + H[q] = {energy:+.3f} {entropy:+.3f};  reconstruction − complexity = {reconstruction:+.3f} − {complexity:.3f}",
                 "bound {elbo:.3f} + gap {gap:.3f} = log p(x) {evidence:.3f} nats"])


E_STEPS = {"exact": lambda log_joint, q: em.e_step(log_joint)[0],
           "half way": em.partial_e_step,
           "hard: 0 or 1": lambda log_joint, q: em.hard_e_step(log_joint)}


def mirrored(num_data: int = 40, seed: int = 3) -> em.MirroredMixture:
    """The data of `climb`: drawn from the model at theta = 1.2, of which three in ten belong to the bell on the right."""
    stream = generator(seed)
    side = torch.where(torch.rand(num_data, generator=stream, dtype=torch.float64) < 0.3, 1.0, -1.0)
    return em.MirroredMixture(1.2 * side + torch.randn(num_data, generator=stream, dtype=torch.float64), 0.3)


def climb() -> Explorer:
    """E and M steps in turn on one unknown: the bound is raised to touch the likelihood, then its top is taken."""
    model, num_half_steps = mirrored(), 26
    grid = torch.linspace(-2.6, 2.6, 41, dtype=torch.float64)
    fine = torch.linspace(-2.6, 2.6, 209, dtype=torch.float64)
    likelihood = model.log_likelihood(fine)
    bottom, top = float(likelihood.min()) - 12, float(likelihood.max()) + 4
    order = model.x.argsort()
    x = model.x[order]
    z = torch.linspace(float(x[0]) - 0.3, float(x[-1]) + 0.3, 31, dtype=torch.float64)

    @lru_cache(maxsize=None)
    def path(start, kind):
        """theta and q after 0, 1, 2, ... half steps."""
        theta = torch.tensor(float(start), dtype=torch.float64)
        q = model.log_weights.exp().expand(len(x), 2)
        found = [(theta, q)]
        for half in range(num_half_steps):
            if half % 2 == 0:
                q = E_STEPS[kind](model.log_joint(theta), q)
            else:
                theta = model.m_step(q)
            found.append((theta, q))
        return found

    def state(start, half_steps, kind):
        theta, q = path(start, kind)[int(half_steps)]
        touch, bound = float(model.log_likelihood(theta)), float(model.elbo(theta, q))
        curve = model.elbo(grid, q)
        shown = max(bound, bottom)
        logit = float(model.log_weights[0] - model.log_weights[1])
        return {"curve": torch.where(curve > bottom - 60, curve, math.nan), "theta": theta, "likelihood": touch, "bound": bound,
                "gap": touch - bound, "q": q[order, 0], "posterior": torch.sigmoid(2 * theta * z + logit),
                "shown": shown, "rise": touch - shown, "e_steps": (int(half_steps) + 1) // 2, "m_steps": int(half_steps) // 2}

    def figure():
        fig, (above, below) = figures.subplots(2, 1, figsize=(6.2, 4.9), gridspec_kw={"height_ratios": [1.9, 1]})
        above.set(xlim=(-2.6, 2.6), ylim=(bottom, top), xlabel="theta", ylabel="nats")
        below.set(xlim=(float(z[0]), float(z[-1])), ylim=(-0.04, 1.04), yticks=[0, 0.5, 1], xlabel="datum x",
                  ylabel="q of the bell at +theta")
        return fig

    return Explorer(
        [state], {"half_steps": Slider("half steps: E, M, E, M, ...", range(num_half_steps + 1), 1, play=True),
                  "start": Slider("theta to start from", [-2.4, -1.6, -0.8, -0.4, -0.2, 0, 0.2, 0.4, 0.8, 1.6, 2.4], 0.2),
                  "kind": Choice("E step", list(E_STEPS), "exact")},
        figure,
        [Line(x=fine.numpy(), y=likelihood.numpy(), role="truth", label="log p(x | theta)"),
         Line(x=grid.numpy(), y="curve", role="bound", label="the bound ELBO(q, theta) for the q at hand"),
         Arrows(x="theta", y="shown", dx=0.0, dy="rise", width=1.6, label="gap at the theta at hand"),
         Points(x="theta", y="likelihood", role="truth", size=4.5),
         Points(x="theta", y="bound", role="bound", size=4.5, shape="square"),
         Line(axes=1, x=z.numpy(), y="posterior", role="truth", width=1.5, label="posterior p(z | x, theta), below"),
         Points(axes=1, x=x.numpy(), y="q", size=3.2, label="q of each datum, below")],
        title="Explorer: E and M in turn",
        alt="""Above, the log likelihood of one unknown theta, a curve with a high hump near 1 and a lower one near −1, a
            valley at −0.21 between them, and below it a parabola, the bound for the present q. An E step lifts the parabola until it touches the curve at the
            present theta; an M step moves theta to the parabola's top, where the curve is higher still. From a start on the
            right of the valley exact steps climb the high hump, from one on the left they stop on the lower one. With a hard E step the parabola stays
            below the curve. In the lower picture, every datum's q as a dot and the posterior as an S-shaped curve: an E step puts the dots on
            the curve, an M step moves the curve away from the dots.""",
        readout=["weights 0.3 at +theta, 0.7 at −theta, known.  E steps: {e_steps:d}, M steps: {m_steps:d};  theta {theta:.4f}",
                 "log p(x | theta) = bound + gap: {likelihood:.4f} = {bound:.4f} + {gap:.4f} nats"])
