"""The explorers of the chapter on variational auto-encoders."""

from __future__ import annotations

import math
from functools import lru_cache

import contourpy
import numpy as np
import torch
from matplotlib.patches import Circle
from torch import nn

from tightbound import divergences, em, figures, vae
from tightbound.device import generator
from tightbound.distributions import DiagonalGaussian
from tightbound.explore import (Choice, Drawing, Ellipse, Explorer, Formula, Image, Line, Network, Point, Points, Slider)
from tightbound.explore.plane import SIDE, load

REACH = 3.4  # of the latent plane that is shown


def plane() -> Explorer:
    """The latent plane of MNIST: a point that can be dragged, and the digit that the decoder makes of it."""
    model, more = load()
    stops = np.linspace(-3, 3, 31).round(2)

    def ring(z):
        square = z[0] ** 2 + z[1] ** 2
        return {"circle": square * np.eye(2), "further": 100 * math.exp(-0.5 * square)}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(7.4, 3.7))
        _plane(left, more)
        left.set_title("held-out digits; dotted: 1, 2, 3 deviations of the prior", fontsize=8)
        _sheet(right, SIDE, "p(x = 1 | z), pixel by pixel")
        return fig

    return Explorer(
        [ring, Network(model.decoder, ["z"], "logits", (SIDE, SIDE), small=True),
         Formula("sigmoid", ["logits"], "ink", (SIDE, SIDE)), Formula("paper", ["ink"], "picture", (SIDE, SIDE))],
        {"z": Point("latents", stops, stops, (0.8, 0.2), names=("z1", "z2"))},
        figure, [Image(axes=1, z="picture", extent=(0, SIDE, 0, SIDE)),
                 Ellipse(mean=[0.0, 0.0], covariance="circle", radii=(1,), role="accent", width=1.3,
                         label="ring through your point: the prior is the same all along it")],
        title="Explorer: the plane of digits",
        alt="""Left, a plane of two latents, in which small numerals show where the encoder puts some two hundred handwritten digits
            of MNIST that no training saw, each as the numeral of its class. Zeros, ones, sixes and sevens have regions of their
            own, fours and nines share one, and twos, threes, fives and eights crowd the middle. A point can be dragged through it.
            Right, the picture that the decoder makes of the point, which changes smoothly: inside a region a clean digit, on
            the way from one region to the next a blend of two, far out mostly the same one, thicker, thinner or frayed.""",
        readout=["of a hundred draws from the prior, about {further:.0f} lie outside the ring"])


def draw() -> Explorer:
    """Draw a digit, and see q(z | x) move and the reconstruction follow: encoder and decoder run in the page."""
    model, more = load()
    names = {f"a {digit}": more["examples"][digit] >= 0.5 for digit in (0, 2, 3, 4, 5, 7, 8)}

    def figure():
        fig, (left, middle, right) = figures.subplots(1, 3, figsize=(8.4, 3.1))
        for ax, title in ((left, "x: draw here"), (right, "reconstruction")):
            _sheet(ax, SIDE, title)
        _plane(middle, more, num_labels=80)
        middle.set_title("q(z | x), among held-out digits", fontsize=10)
        return fig

    box = (0, SIDE, 0, SIDE)
    reader = nn.Sequential(*model.encoder.network, model.encoder.head)
    return Explorer(
        [Formula("binary", ["ink"], "x", (SIDE, SIDE)), Formula("paper", ["x"], "sheet", (SIDE, SIDE)), Network(reader, ["x"], "code", (4,), small=True),
         Formula("mean", ["code"], "mean", (2,)), Formula("covariance", ["code"], "covariance", (2, 2)),
         Formula("rate", ["code"], "rate"), Network(model.decoder, ["mean"], "logits", (SIDE, SIDE), small=True),
         Formula("sigmoid", ["logits"], "again", (SIDE, SIDE)), Formula("paper", ["again"], "print", (SIDE, SIDE)),
         Formula("bernoulli", ["x", "logits"], "fit")],
        {"ink": Drawing("your drawing", (SIDE, SIDE), {**names, "a blank sheet": np.zeros(SIDE**2)}, "a 7", extent=box)},
        figure, [Image(z="sheet", extent=box), Image(axes=2, z="print", extent=box),
                 Ellipse(axes=1, mean="mean", covariance="covariance", radii=(3,), label="encoder's q(z | x), out to three deviations")],
        title="Explorer: draw a digit",
        alt="""Three panels. Left, a sheet of 28 by 28 black or white pixels on which one can draw; it opens with a
            handwritten seven. Middle, the plane of two latents with small numerals where digits of each class lie, and the
            encoder's Gaussian for the drawing, a small ellipse at the outer edge of the sevens. Right, the picture that the decoder
            makes of the Gaussian's mean, a soft typical seven. As a stroke closes the seven's top to a loop, the ellipse goes over to
            the nines, most of the way at one stroke and before the loop is closed, and the reconstruction is a nine.""",
        readout=["rate, KL from q to the prior, = {rate:.2f} nats; log p(x | z) at the mean of q = {fit:.1f} nats"])


def _sheet(ax, side: int, title: str) -> None:
    """Where a picture lies: a frame, without ticks."""
    ax.set(xlim=(0, side), ylim=(0, side), xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(True)
    ax.set_box_aspect(1)


def _plane(ax, more, num_labels: int = 180) -> None:
    """The latent plane: where the encoder puts digits, each as the numeral of its class, and the prior's deviations."""
    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, lw=1, ec=figures.colour("prior"), ls=(0, figures.DASHES["prior"])))
    placed = np.empty((0, 2))
    for (x, y), label in zip(more["means"], more["labels"]):
        near = len(placed) and np.abs(placed - (x, y)).max(1).min() < 0.13
        if len(placed) < num_labels and max(abs(x), abs(y)) < REACH - 0.1 and not near:
            ax.text(x, y, str(label), fontsize=6.5, ha="center", va="center")
            placed = np.vstack([placed, (x, y)])
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[-2, 0, 2], yticks=[-2, 0, 2], xlabel="z1", ylabel="z2")
    ax.set_box_aspect(1)


SAMPLES = (1, 5, 20, 50, 200, 1000, 5000)
SHOWN = 80        # samples that are drawn

@lru_cache
def images() -> dict[str, int]:
    """Held-out digits worth a look, by name: their place among them."""
    x, labels = vae.binary_digits("test")
    return {f"{i + 1}: a {int(labels[k])}": k for i, k in enumerate((3, 39, 0, 98, 82, 69))}


def posterior() -> Explorer:
    """The posterior of one image: its exact contours, the encoder's Gaussian, the best Gaussian, and weighted samples."""
    model = vae.two_latents()
    x, _ = vae.binary_digits("test")
    names = images()

    @lru_cache(maxsize=None)
    def known(image):
        return _posterior(model, x[names[image]])

    def still(image):
        return known(image)["still"]

    def weighted(image, samples):
        found = known(image)
        log_weights = found["log_weights"][:samples]
        shares = torch.softmax(log_weights[:SHOWN], 0)
        size = torch.zeros(SHOWN, dtype=torch.float64)
        size[: len(shares)] = 1.2 + 12 * shares.sqrt()
        at = np.arange(SHOWN) < samples
        estimate = float(log_weights.logsumexp(0)) - math.log(samples)
        return {"estimate": estimate, "off": round(estimate - found["still"]["truth"], 2) + 0.0,  # no "-0.00"
                "ess": float(torch.exp(2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0))),
                "size": np.where(at, size, 0.0), "x": np.where(at, found["z"][:, 0], np.nan),
                "y": np.where(at, found["z"][:, 1], np.nan)}

    def figure(image):
        fig, (left, right) = figures.subplots(1, 2, figsize=(7.4, 3.7), gridspec_kw={"width_ratios": [1, 2.2]})
        _sheet(left, 8, "x")
        (x0, x1), (y0, y1) = known(image)["box"]
        right.set(xlim=(x0, x1), ylim=(y0, y1), xlabel="z1", ylabel="z2", title="p(z | x) and q(z | x)")
        return fig

    return Explorer(
        [still, weighted], {"image": Choice("image", list(names), list(names)[0]), "samples": Slider("samples", SAMPLES, 20)},
        figure,
        [Image(z="picture", extent=(0, 8, 0, 8)),
         Line(axes=1, x="contour_x", y="contour_y", role="truth", label="exact posterior: e^-1/2, e^-2, e^-9/2 of its peak"),
         Ellipse(axes=1, mean="mean", covariance="covariance", radii=(1, 2, 3), label="encoder's q(z | x), to three deviations"),
         Ellipse(axes=1, mean="best_mean", covariance="best_covariance", radii=(1, 2, 3), role="accent", width=1.4,
                 label="best diagonal Gaussian, found for this image"),
         Points(axes=1, x="x", y="y", size="size", role="bound", alpha=0.45, label=f"samples of q, larger by weight (at most {SHOWN})")],
        title="Explorer: the posterior of one image",
        alt="""Left, a handwritten digit of 8 by 8 black or white pixels. Right, the plane of its two latents: the exact posterior as
            solid contours, the encoder's Gaussian as dashed ellipses, and samples from it as dots, larger where their weight is
            larger. For the first images the ellipses lie over the contours and the dots differ little in size. Further down the
            list the encoder's ellipses lie beside the contours, at last far away, and one or two dots carry all the weight. Finer
            ellipses show the best Gaussian for the image: it lies over the contours even where the encoder's does not.""",
        readout=["log p(x) = {truth:.2f} nats exactly; ELBO of the encoder's q {bound:.2f}, gap {gap:.2f}, of the best {best_bound:.2f}, gap {best_gap:.2f}",
                 "from {samples:d} samples: log of the mean weight {estimate:.2f}, off by {off:+.2f} nats; effective samples {ess:.1f}"])


def _posterior(model, image) -> dict:
    """All that is known of the posterior of one image: contours, Gaussians, samples and their log weights."""
    problem = model.problem(image)
    truth = float(problem.log_evidence)
    precise = vae.frozen(model, torch.float64)
    with torch.no_grad():
        q = precise.posterior(image.double()[None])
        z, log_q = q.rsample_and_log_prob((max(SAMPLES),), generator=generator(0))
        log_weights = problem.log_joint(z[:, 0]) - log_q[:, 0]
    mean, scale = q.mean[0], q.stddev[0]
    axes, height = _heights(problem, [torch.linspace(-6, 6, 161, dtype=torch.float64)] * 2)
    live = [(height > math.exp(-7)).any(1 - i).nonzero()[:, 0] for i in (0, 1)]
    axes, height = _heights(problem, [torch.linspace(float(axis[max(int(on[0]) - 1, 0)]), float(axis[min(int(on[-1]) + 1, 160)]), 161,
                                                     dtype=torch.float64) for axis, on in zip(axes, live)])
    top = torch.cartesian_prod(*axes)[height.argmax()]
    best = divergences.approximate(problem, family="diagonal", starts=top[None], num_samples=1000).q
    paths = [path for level in (-0.5, -2.0, -4.5)
             for path in contourpy.contour_generator(*(axis.numpy() for axis in axes), height.numpy().T).lines(math.exp(level))]
    paths = [path[:: max(1, len(path) // 60)] if len(path) > 60 else path for path in paths]
    paths = [np.vstack([path, path[:1]]) for path in paths]
    contour = np.full((420, 2), np.nan)
    line = np.vstack([part for path in paths for part in (path, [[np.nan, np.nan]])])[:420]
    contour[: len(line)] = line
    corners = np.vstack([contour[~np.isnan(contour[:, 0])], (mean - 3 * scale).numpy(), (mean + 3 * scale).numpy()])
    low, high = corners.min(0), corners.max(0)
    margin = 0.06 * (high - low) + 0.02
    still = {"picture": 1 - image.reshape(8, 8), "contour_x": contour[:, 0], "contour_y": contour[:, 1], "mean": mean,
             "covariance": torch.diag(scale**2), "best_mean": best.mean, "best_covariance": torch.diag(best.stddev**2),
             "truth": truth, "bound": em.elbo(problem, DiagonalGaussian(mean, scale)).value,
             "best_bound": em.elbo(problem, best).value}
    still["gap"], still["best_gap"] = truth - still["bound"], truth - still["best_bound"]
    return {"still": still, "z": z[:SHOWN, 0].numpy(), "log_weights": log_weights,
            "box": list(zip((low - margin).round(2).tolist(), (high + margin).round(2).tolist()))}


def _heights(problem, axes):
    """The joint density over a grid, divided by its largest value there: (len of the first axis, len of the second)."""
    value = problem.log_joint(torch.cartesian_prod(*axes)).reshape(*map(len, axes))
    return axes, torch.exp(value - value.max())
