"""Bounds with remedies against collapse."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tightbound.arguments import count, real
from tightbound.vae_practice.measures import gaussian_rates


@dataclass(frozen=True)
class Objective:
    """A bound with remedies, to be given to `training.fit`; with none it is the ELBO, in nats::

        E_q[log p(x | z)] - beta_t sum_j max(floor, R_j)

    Attributes:
        beta: the price of a nat of rate. Below one it is no bound; above one it is a bound, but a loose one.
        warm_up: steps in which beta_t rises from 0 in a straight line: KL annealing.
        floor: free bits: nats a unit (in the mean over the batch) that cost nothing less when saved.
        dropout: the share of words that the decoder is not shown while it predicts the next: word dropout.

    Source: Higgins et al. (2017) for beta; Bowman et al. (2016) for annealing and word dropout; Kingma et al. (2016) for
    free bits.
    """

    beta: float = 1.0
    warm_up: int = 0
    floor: float = 0.0
    dropout: float = 0.0

    def __post_init__(self):
        for name in ("beta", "floor", "dropout"):
            if real(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        count("warm_up", self.warm_up)
        if self.dropout > 1:
            raise ValueError(f"dropout is a share of words, at most 1, got {self.dropout!r}")

    def weight(self, step: int) -> float:
        """beta_t = beta min(1, t / warm_up)."""
        return self.beta * min(1.0, step / self.warm_up) if self.warm_up else self.beta

    def __call__(self, model, x: Tensor, *, generator=None,
                 step: int = 0) -> Tensor:
        """The objective of each row: (B, ...) gives (B,)."""
        q = model.posterior(x)
        z, _ = q.rsample_and_log_prob((), generator=generator)
        hide = {"dropout": self.dropout, "generator": generator}
        hide = hide if self.dropout else {}
        reconstruction = model.decode(z).log_prob(x, **hide)
        rates = gaussian_rates(q.mean, q.stddev.log())
        if self.floor:
            rates = rates.mean(0, keepdim=True).clamp(min=self.floor)
        return reconstruction - self.weight(step) * rates.sum(-1)


def remedies(num_steps: int) -> dict[str, Objective]:
    """The objectives that the chapter holds against each other, for a training of so many steps."""
    return {"language model": Objective(), "VAE": Objective(), "KL annealing": Objective(warm_up=num_steps // 2),
            "free bits": Objective(floor=1.0), "word dropout": Objective(dropout=0.4), "beta = 1/2": Objective(beta=0.5)}


def two_latent_objectives() -> dict[str, Objective]:
    """Those of the chapter's last table: sixty epochs of twelve steps each, the annealing over the first half."""
    return {"VAE": Objective(), "KL annealing": Objective(warm_up=360), "free bits": Objective(floor=2.0),
            "beta = 1/4": Objective(beta=0.25), "beta = 4": Objective(beta=4.0)}
