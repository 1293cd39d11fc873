"""Densities of known volume, each hard in its way; their "evidence" is ln Z = log ∫ exp(log_joint(z)) dz."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.integrate import quad
from scipy.special import kve, ndtr
from torch import Tensor

from tightbound.arguments import count, positive, real
from tightbound.estimate import Estimate
from tightbound.exact import quadrature
from tightbound.problem import Problem

LOG_2PI = math.log(2 * math.pi)


def quartic(g: float = 0.1) -> Problem:
    """A Gaussian with a quartic term, whose expansion in powers of g diverges for every g > 0::

        log_joint(x) = -x^2/2 - g x^4,      Z = sqrt(1/(8g)) exp(1/(32g)) K_{1/4}(1/(32g))

    K is the modified Bessel function of the second kind.

    Raises:
        ValueError: for g not above zero.
    """
    g = positive("g", g)
    if g > 1e-8:
        log_z = math.log(kve(0.25, 1 / (32 * g))) - 0.5 * math.log(8 * g)  # kve(n, x) = exp(x) K_n(x)
    else:
        log_z = 0.5 * LOG_2PI - 3 * g  # to first order, E x^4 being 3: the second, 48 g^2, is below precision
    return Problem(lambda z: (-0.5 * z**2 - g * z**4).squeeze(-1), 1, name="quartic", latents=["x"],
                   log_evidence=Estimate(log_z, "exact", source="Bessel function"))


def rosenbrock(a: float = 1.0, b: float = 100.0) -> Problem:
    """Rosenbrock's curved valley as a density::

        log_joint(x, y) = -(a - x)^2 - b (y - x^2)^2,      Z = pi / sqrt(b)

    Raises:
        ValueError: for a not finite, or b not above zero.

    Source: Rosenbrock (1960); Goodman & Weare (2010) use it as a density.
    """
    a, b = real("a", a), positive("b", b)

    def log_joint(z: Tensor) -> Tensor:
        x, y = z.unbind(-1)
        return -((a - x) ** 2) - b * (y - x**2) ** 2

    evidence = Estimate(math.log(math.pi / math.sqrt(b)), "exact", source="Gaussian integrals")
    return Problem(log_joint, 2, name="Rosenbrock", latents=["x", "y"], log_evidence=evidence)


def banana(b: float = 0.1) -> Problem:
    """A Gaussian N(0, diag(10^2, 1)) twisted into a banana by a map of Jacobian one: it stays normalised::

        log_joint(z) = log N(z1; 0, 10^2) + log N(z2 + b z1^2 - 100 b; 0, 1),      ln Z = 0

    Raises:
        ValueError: for b not finite.

    Source: Haario, Saksman & Tamminen (1999), Adaptive proposal distribution for random walk Metropolis.
    """
    b = real("b", b)

    def log_joint(z: Tensor) -> Tensor:
        z1, z2 = z.unbind(-1)
        return -0.5 * (z1 / 10) ** 2 - 0.5 * (z2 + b * z1**2 - 100 * b) ** 2 - LOG_2PI - math.log(10)

    return Problem(log_joint, 2, name="banana",
                   log_evidence=Estimate(0.0, "exact", source="normalised density"))


def funnel(dim: int = 10) -> Problem:
    """Neal's funnel: the scale of all other latents is a latent itself::

        v ~ N(0, 3^2),   x_i | v ~ N(0, exp(v)), i = 1..dim-1    (standard deviation exp(v/2)),      ln Z = 0

    Raises:
        ValueError: for fewer than two latents.

    Source: Neal (2003), Slice sampling, section 8.
    """
    dim = count("dim", dim, least=2)

    def log_joint(z: Tensor) -> Tensor:
        v, x = z[..., 0], z[..., 1:]
        fit = -0.5 * (x**2).sum(-1) * torch.exp(-v) - 0.5 * (dim - 1) * v
        return -0.5 * (v / 3) ** 2 - math.log(3) + fit - 0.5 * dim * LOG_2PI

    return Problem(log_joint, dim, name="funnel", latents=["v"] + [f"x{i}" for i in range(1, dim)],
                   log_evidence=Estimate(0.0, "exact", source="normalised density"))


def ring(radius: float = 2.0, width: float = 0.4) -> Problem:
    """A ring in the plane, of radius r and width s::

        log_joint(z) = -((|z| - r) / s)^2 / 2
        Z = 2 pi (s^2 exp(-r^2 / 2s^2) + r s sqrt(pi/2) (1 + erf(r / (s sqrt 2))))

    Raises:
        ValueError: for a radius or width not above zero.
    """
    r, s = positive("radius", radius), positive("width", width)
    z = 2 * math.pi * (s**2 * math.exp(-(r**2) / (2 * s**2))
                       + r * s * math.sqrt(math.pi / 2) * (1 + math.erf(r / (s * math.sqrt(2)))))
    return Problem(lambda z: -0.5 * ((_norm(z) - r) / s) ** 2, 2, name="ring",
                   log_evidence=Estimate(math.log(z), "exact", source="polar coordinates"))


def _norm(z: Tensor) -> Tensor:
    """|z|, rounded off over a distance of 1e-8 about the origin, where it would have no derivatives."""
    return torch.sqrt((z**2).sum(-1) + 1e-16)


def energy(number: int = 1) -> Problem:
    """The test energies U1 to U4: log_joint(z) = -U(z) with::

        U1 = ((|z| - 2) / 0.4)^2 / 2 - log(exp(-((z1 - 2) / 0.6)^2 / 2) + exp(-((z1 + 2) / 0.6)^2 / 2))
        U2 = ((z2 - w1) / 0.4)^2 / 2
        U3 = -log(exp(-((z2 - w1) / 0.35)^2 / 2) + exp(-((z2 - w1 + w2) / 0.35)^2 / 2))
        U4 = -log(exp(-((z2 - w1) / 0.4)^2 / 2) + exp(-((z2 - w1 + w3) / 0.35)^2 / 2))
        w1 = sin(pi z1 / 2),   w2 = 3 exp(-((z1 - 1) / 0.6)^2 / 2),   w3 = 3 sigmoid((z1 - 1) / 0.3)

    U1 lives on the plane. U2 to U4 run on for ever along z1, so they are confined to the box [-4, 4]^2, with
    log joint -inf outside. Their ln Z are found by quadrature: of U1 in the plane, of the others over z1, the
    integral over z2 being one of normal densities.

    Raises:
        ValueError: for a number that is not 1, 2, 3 or 4.

    Source: Rezende & Mohamed (2015), Variational inference with normalizing flows, table 1.
    """
    number = count("number", number, least=1, most=4)
    if number == 1:
        return Problem(_u1, 2, name="U1", log_evidence=_u1_evidence())

    def log_joint(z: Tensor) -> Tensor:
        inside = (z.abs() <= 4).all(-1)
        z1, z2 = z.unbind(-1)
        bumps = torch.stack([-0.5 * ((z2 - centre) / scale) ** 2 for centre, scale in _bumps(number, z1)])
        return torch.where(inside, bumps.logsumexp(0), -torch.inf)

    return Problem(log_joint, 2, name=f"U{number}", box=((-4.0, 4.0), (-4.0, 4.0)),
                   log_evidence=_box_evidence(number))


def _u1(z: Tensor) -> Tensor:
    sides = torch.logaddexp(-0.5 * ((z[..., 0] - 2) / 0.6) ** 2, -0.5 * ((z[..., 0] + 2) / 0.6) ** 2)
    return -0.5 * ((_norm(z) - 2) / 0.4) ** 2 + sides


def _bumps(number: int, z1: Tensor) -> list[tuple[Tensor, float]]:
    """The centre and the scale in z2 of each bump of exp(-U), for U2 to U4."""
    w1 = torch.sin(math.pi * z1 / 2)
    if number == 2:
        return [(w1, 0.4)]
    if number == 3:
        return [(w1, 0.35), (w1 - 3 * torch.exp(-0.5 * ((z1 - 1) / 0.6) ** 2), 0.35)]
    return [(w1, 0.4), (w1 - 3 * torch.sigmoid((z1 - 1) / 0.3), 0.35)]


@lru_cache
def _u1_evidence() -> Estimate:
    return quadrature(Problem(_u1, 2, name="U1", device="cpu"))


@lru_cache
def _box_evidence(number: int) -> Estimate:
    def over_z2(z1: float) -> float:
        total = 0.0
        for centre, scale in _bumps(number, torch.tensor(z1, dtype=torch.float64)):
            centre = float(centre)
            total += scale * (ndtr((4 - centre) / scale) - ndtr((-4 - centre) / scale))
        return total

    integral, _ = quad(over_z2, -4, 4, limit=200, epsabs=0, epsrel=1e-12)
    return Estimate(np.log(integral) + 0.5 * LOG_2PI, "exact", source="quadrature")


def two_modes(separation: float = 3.0, weight: float = 0.3, scale: float = 0.5) -> Problem:
    """A mixture of two normal densities on the line, a distance apart::

        p(z) = w N(z; -separation/2, scale^2) + (1 - w) N(z; separation/2, scale^2),      ln Z = 0

    Raises:
        ValueError: for a weight not between 0 and 1, a separation that is negative, or a scale not above
            zero.
    """
    separation, weight = real("separation", separation), real("weight", weight)
    scale = positive("scale", scale)
    if separation < 0 or not 0 < weight < 1:
        raise ValueError("two_modes needs a separation of at least 0 and a weight between 0 and 1, got "
                         f"{separation!r} and {weight!r}")

    def log_joint(z: Tensor) -> Tensor:
        left = -0.5 * ((z + separation / 2) / scale) ** 2 + math.log(weight)
        right = -0.5 * ((z - separation / 2) / scale) ** 2 + math.log1p(-weight)
        return (torch.logaddexp(left, right) - math.log(scale) - 0.5 * LOG_2PI).squeeze(-1)

    return Problem(log_joint, 1, name="two modes", latents=["z"],
                   log_evidence=Estimate(0.0, "exact", source="normalised density"))


def heavy_tail(df: float = 3.0, dim: int = 1) -> Problem:
    """Student's t density with df degrees of freedom, in d dimensions::

        p(z) = Γ((df+d)/2) / (Γ(df/2) (pi df)^(d/2)) (1 + |z|^2 / df)^(-(df+d)/2),      ln Z = 0

    Raises:
        ValueError: for df not above zero, or fewer than one dimension.
    """
    df, dim = positive("df", df), count("dim", dim, least=1)
    constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - 0.5 * dim * math.log(math.pi * df)

    def log_joint(z: Tensor) -> Tensor:
        return constant - 0.5 * (df + dim) * torch.log1p((z**2).sum(-1) / df)

    return Problem(log_joint, dim, name="heavy tail",
                   log_evidence=Estimate(0.0, "exact", source="normalised density"))
