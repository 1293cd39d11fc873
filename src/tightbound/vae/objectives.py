"""What is maximised in training: bounds on log p(x), one number an image, in nats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from tightbound.approximation import log_mean_exp
from tightbound.device import meet


def check(model, x: Tensor) -> None:
    """Asks whether images and model meet on one device; and the model, if it can tell, whether it is meant for such images, but
    not on a GPU, which would have to wait."""
    if torch.compiler.is_compiling():
        return
    meet(x, model)
    if x.device.type == "cpu" and hasattr(model, "check"):
        model.check(x)


def log_weights(model, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
    """log w_s = log p(x, z_s) - log q(z_s | x) for z_s ~ q(z | x): x (B, D) gives (S, B), in nats."""
    check(model, x)
    z, log_q = model.posterior(x).rsample_and_log_prob((num_samples,), generator=generator)
    return model.log_joint(x, z) - log_q


def elbo(model, x: Tensor, num_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
    """The evidence lower bound of each image, all of it by samples: x (B, D) gives (B,)::

        ELBO(x) = E_q[log p(x, z) - log q(z | x)] <= log p(x)        (nats)

    It asks nothing of the model but `log_joint` and `posterior`; `split` is less noisy where q and the prior are Gaussian.
    """
    return log_weights(model, x, num_samples, generator=generator).mean(0)


def split(model, x: Tensor, num_samples: int = 1, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """The two parts of the bound, (B,) each, in nats; the second in closed form where q and the prior are Gaussian::

        ELBO(x) = E_q[log p(x | z)] - KL(q(z | x) || p(z))
                  reconstruction      rate

    For a diagonal Gaussian q and a standard normal prior: KL = 1/2 sum_j (mu_j^2 + s_j^2 - 1 - log s_j^2).
    """
    check(model, x)
    q = model.posterior(x)
    z, log_q = q.rsample_and_log_prob((num_samples,), generator=generator)
    reconstruction = model.decode(z).log_prob(x).mean(0)
    try:
        rate = kl_divergence(q, model.prior())
    except NotImplementedError:
        rate = (log_q - model.prior().log_prob(z)).mean(0)
    return reconstruction, rate


def iwae_bound(model, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
    """The importance-weighted bound of each image: x (B, D) gives (B,)::

        L_K(x) = E[ log 1/K sum_k w_k ],    ELBO = L_1 <= L_2 <= ... -> log p(x)        (nats)

    Source: Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders.
    """
    return log_mean_exp(log_weights(model, x, num_samples, generator=generator).movedim(0, -1))
