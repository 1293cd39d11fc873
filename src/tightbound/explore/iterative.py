"""The explorers of the chapter on iterative amortised inference."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tightbound import figures, iterative, vae
from tightbound.explore import Choice, Explorer, HeatMap, Image, Line, Point, Points, Slider

IMAGES = {"test image 74": 74, "test image 3": 3, "test image 12": 12}
STARTS = tuple(np.linspace(-2.4, 2.4, 9).round(2))
REACH, SIDE = 3.0, 41
LEARNED, ADAM = 8, 40           # steps


@lru_cache
def _surfaces() -> dict[str, dict]:
    """For each image the bound over (mu_1, mu_2), the best q, and the paths from every start: bounds are by quadrature."""
    model = vae.evaluate.frozen(vae.two_latents(), torch.float64)
    x = vae.binary_digits("test")[0][list(IMAGES.values())].double()
    truth, nodes = iterative.gaps(model, x), iterative.hermite(2, 6)
    starts = torch.cartesian_prod(*[torch.tensor(STARTS, dtype=torch.float64)] * 2)
    many = x.repeat_interleave(len(starts), 0)
    first = torch.stack([starts, torch.zeros_like(starts)], 1).repeat(len(x), 1, 1)
    rule = iterative.two_latents_rule().double()
    found = {}
    with torch.no_grad():
        for name, move, steps in (("learned", rule, LEARNED), ("adam", iterative.Adam(0.1), ADAM)):
            lams, _, _ = iterative.Inference(model, move, nodes=nodes).path(many, steps, start=first)
            bounds = {t: iterative.elbo(model, many, lams[t], nodes) for t in {LEARNED, steps}}
            found[name] = (lams[:, :, 0].clamp(-6, 6).unflatten(1, (len(x), -1)),
                           {t: bound.unflatten(0, (len(x), -1)) for t, bound in bounds.items()})
        made = model.decode(found["learned"][0][-1]).mean.unflatten(-1, (8, 8))
        axis = torch.linspace(-REACH, REACH, SIDE, dtype=torch.float64)
        centres = torch.cartesian_prod(axis, axis)
        codes = model.posterior(x).mean
        fields = []
        for i, best in enumerate(truth.optimum):
            lam = torch.stack([centres, best[1].expand_as(centres)], 1)
            fields.append(iterative.elbo(model, x[i:i + 1], lam, nodes).reshape(SIDE, SIDE).T)
    return {name: {"field": (1 - ((truth.best[i] - fields[i]).clamp(min=0) / 45).sqrt()).clamp(min=0).numpy(),
                   "seen": x[i].reshape(8, 8).numpy(), "made": made[i].numpy(),
                   "optimum": truth.optimum[i, 0].numpy(), "code": codes[i].numpy(), "best": float(truth.best[i]),
                   "direct": float(truth.bound[i]), "learned": found["learned"][0][:, i].numpy(),
                   "adam": found["adam"][0][:, i].numpy(),
                   "bounds": [found["learned"][1][LEARNED][i].numpy(), found["adam"][1][LEARNED][i].numpy(),
                              found["adam"][1][ADAM][i].numpy()]}
            for i, name in enumerate(IMAGES)}


def surface() -> Explorer:
    """The bound of one image over (mu_1, mu_2): gradient ascent and a learned rule from wherever one starts."""
    def ground(image):
        here = _surfaces()[image]
        return {"bound": here["field"], "seen": here["seen"], "best_x": here["optimum"][:1], "best_y": here["optimum"][1:],
                "code_x": here["code"][:1],
                "code_y": here["code"][1:], "best": here["best"], "direct": here["direct"]}

    def paths(image, start):
        here = _surfaces()[image]
        row = STARTS.index(start[0]) * len(STARTS) + STARTS.index(start[1])
        learned, adam = here["learned"][:, row], here["adam"][::2, row]
        after, short, long = (float(values[row]) for values in here["bounds"])
        return {"made": here["made"][row], "lx": learned[:, 0], "ly": learned[:, 1], "ax": adam[:, 0], "ay": adam[:, 1],
                "after": after, "short": short, "long": long}

    def figure():
        fig, (plane, seen, made) = figures.subplots(1, 3, figsize=(8.2, 3.9), gridspec_kw={"width_ratios": [2.2, 1, 1]})
        plane.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xlabel="$\\mu_1$", ylabel="$\\mu_2$")
        for ax, words in ((seen, "the image"), (made, "the learned end")):
            ax.set(xlim=(0, 8), ylim=(0, 8), xticks=[], yticks=[], title=words)
            ax.set_box_aspect(1)
        return fig

    edge = REACH + REACH / (SIDE - 1)
    return Explorer(
        [ground, paths],
        {"image": Choice("image", list(IMAGES), next(iter(IMAGES))),
         "start": Point("start", STARTS, STARTS, (0.0, 0.0), names=("mu 1", "mu 2"))},
        figure,
        [HeatMap(z="bound", extent=(-edge, edge, -edge, edge)),
         Line(x="ax", y="ay", role="prior", width=1.4),
         Points(x="ax", y="ay", role="prior", size=3.0, label=f"Adam, {ADAM} steps, every second one"),
         Line(x="lx", y="ly", role="accent", width=1.8),
         Points(x="lx", y="ly", role="accent", size=4.5, shape="square", label=f"learned, {LEARNED} steps"),
         Points(x="code_x", y="code_y", size=6.0, shape="square", label="the encoder's mean"),
         Points(x="best_x", y="best_y", role="truth", size=7.0, shape="cross", label="the best mean"),
         Image(axes=1, z="seen", extent=(0, 8, 0, 8)), Image(axes=2, z="made", extent=(0, 8, 0, 8))],
        title="Explorer: anywhere to the top",
        alt="""The bound of one image over the two means of q, bright where it is high, at the scales of the best q. From a start that can be
            dragged anywhere two paths set out: forty steps of Adam, close together, and eight learned ones. A square marks the encoder's
            mean, a cross the best one; on image 74 the two lie some way apart. On the right the image, and what the decoder makes of
            the mean at which the learned path ends.""",
        readout=["bound after 8 learned steps {after:.2f} nats; after 8 of Adam {short:.2f}, after 40 {long:.2f}",
                 "the best q has {best:.2f} nats, the encoder's {direct:.2f}"])


NOISE, RATE, STRIDE, MOMENTS = 0.05, 0.05, 4, 40
SEEN = (0.0, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0)
FROM = tuple(np.linspace(-2, 2, 17).round(2))
WIDTHS = {"narrow, 0.37": -1.0, "as wide as the prior": 0.0}


@lru_cache
def _climbs() -> np.ndarray:
    """Adam on `folded_bound` from q = N(start, width^2): mean and log scale, (x, start, width, moment, 2)."""
    stops = (torch.tensor(values, dtype=torch.float64) for values in (SEEN, FROM, tuple(WIDTHS.values())))
    x, start, width = (t.reshape(-1) for t in torch.meshgrid(*stops, indexing="ij"))
    at = torch.stack([start, width], -1)[:, :, None]                             # lambda, (B, 2, 1)
    rule, rows = iterative.Adam(RATE), [at]
    memory = rule.remember(at)
    for step in range(STRIDE * MOMENTS):
        leaf = at.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(iterative.folded_bound(x, leaf[:, 0, 0], leaf[:, 1, 0], NOISE).sum(), leaf)
        at, memory = rule(iterative.Signal(at, slope, None, step), memory)
        rows.append(at)
    shape = (len(SEEN), len(FROM), len(WIDTHS), MOMENTS + 1, 2)
    return torch.stack(rows[::STRIDE])[..., 0].transpose(0, 1).reshape(shape).numpy()


def _log_joint(x: float, z: Tensor) -> Tensor:
    normals = torch.distributions.Normal(z.abs(), math.sqrt(NOISE)), torch.distributions.Normal(0.0, 1.0)
    return normals[0].log_prob(torch.tensor(x, dtype=z.dtype)) + normals[1].log_prob(z)


def fold() -> Explorer:
    """x = |z| + noise: the start decides which of two answers q gives."""
    z = torch.linspace(-3, 3, 121, dtype=torch.float64)
    fine = torch.linspace(-8, 8, 6401, dtype=torch.float64)

    def truth(x):
        evidence = float(_log_joint(x, fine).logsumexp(0) + math.log(16 / 6400))
        return {"posterior": (_log_joint(x, z) - evidence).exp(), "evidence": evidence}

    def climb(x, start, width):
        rows = _climbs()[SEEN.index(x), FROM.index(start), list(WIDTHS).index(width)]
        mean, log_scale = rows[-1]
        q = torch.distributions.Normal(mean, math.exp(log_scale)).log_prob(z).exp()
        bound = float(iterative.folded_bound(x, mean, log_scale, NOISE))
        return {"q": q, "way": rows[:, 0], "mean": mean + 0.0, "scale": math.exp(log_scale), "found": bound}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(6.8, 3.3), gridspec_kw={"width_ratios": [1.4, 1]})
        left.set(xlim=(-3, 3), ylim=(0, 2.8), xlabel="z", ylabel="density")
        right.set(xlim=(0, STRIDE * MOMENTS), ylim=(-2.4, 2.4), xlabel="step", ylabel="mean of q")
        return fig

    def both(x, start, width):
        return {"missing": truth(x)["evidence"] - climb(x, start, width)["found"]}

    return Explorer(
        [truth, climb, both],
        {"x": Slider("x, what was seen", SEEN, 1.0), "start": Slider("start of the mean", FROM, 0.5),
         "width": Choice("start of the scale", list(WIDTHS), next(iter(WIDTHS)))},
        figure,
        [Line(x=z, y="posterior", role="truth", label="the posterior"), Line(x=z, y="q", label="q, after 160 steps"),
         Line(axes=1, x=STRIDE * np.arange(MOMENTS + 1.0), y="way", width=2.2)],
        title="Explorer: the start decides",
        alt="""Left, the posterior of z, given x = |z| + noise: two equal peaks at about x and minus x, which grow into one as x goes to zero; and
            the q that Adam ends at. Right, the mean of q against the step. From a narrow start on either side, and for x = 1 or more, the mean
            moves to the peak on its own side and q becomes narrow. From zero it stays where it is, and q ends wide and in the
            middle; so it does from near zero where the start is wide.""",
        readout=["q ends at mean {mean:.2f}, scale {scale:.2f}; its bound is {found:.3f}, "
                 "log p(x) {evidence:.3f}: a gap of {missing:.3f} nats"])
