"""Another road: adversarial training, which has samples and no density."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tightbound.device import generator, seeded
from tightbound.vae import mlp


class GAN(NamedTuple):
    """A generator, z (n, 1) to x (n, 1), the discriminator's logit, and the two losses of every step (steps, 2) in nats."""

    generator: nn.Module
    discriminator: nn.Module
    history: Tensor

    def sample(self, num_samples: int, *, seed: int | torch.Generator = 0) -> Tensor:
        """Draws x = G(z), z ~ N(0, 1): (num_samples, 1). There is no density to go with them."""
        with torch.no_grad():
            return self.generator(torch.randn(num_samples, 1, generator=generator(seed)))


def fit_gan(data: Tensor, *, num_steps: int = 2000, batch_size: int = 128, width: int = 32, learning_rate: float = 1e-3,
            seed: int = 0) -> GAN:
    """Plays the game of Goodfellow et al., with the generator's non-saturating loss::

        D ascends  E_data[log D(x)] + E_z[log(1 - D(G(z)))],      G ascends  E_z[log D(G(z))]         (nats)

    For the best D the first is 2 JS(data || G) - 2 log 2, with JS the Jensen-Shannon divergence.

    Args:
        data: (N, 1).

    Source: Goodfellow et al. (2014), Generative adversarial nets.
    """
    stream = generator(seed, data.device)
    with seeded(seed):
        make, judge = (nn.Sequential(mlp(1, width, width), nn.Linear(width, 1)).to(data.device) for _ in range(2))
    players = [torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.5, 0.999)) for net in (judge, make)]
    history = torch.zeros(num_steps, 2)
    for step in range(num_steps):
        real_x = data[torch.randint(len(data), (batch_size,), generator=stream, device=data.device)]
        fake = make(torch.randn(batch_size, 1, generator=stream, device=data.device))
        losses = (lambda: F.softplus(-judge(real_x)).mean() + F.softplus(judge(fake.detach())).mean(),
                  lambda: F.softplus(-judge(fake)).mean())
        for turn, (player, loss) in enumerate(zip(players, losses)):
            value = loss()
            player.zero_grad()
            value.backward()
            player.step()
            history[step, turn] = value.detach()
    return GAN(make, judge, history)


def game_value(real_density: Tensor, fake_density: Tensor, cell: float) -> tuple[Tensor, float]:
    """The best discriminator against two densities on a grid with cells of that size, and the value of the game in nats.

    ::

        D*(x) = p(x) / (p(x) + g(x)),     E_p[log D*] + E_g[log(1 - D*)] = 2 JS(p || g) - 2 log 2
    """
    total = real_density + fake_density
    best = real_density / total
    value = cell * (torch.xlogy(real_density, best) + torch.xlogy(fake_density, fake_density / total)).sum()
    return best, float(value)
