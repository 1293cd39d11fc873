"""One training loop for every network of the book."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tightbound.device import generator


def fit(model: nn.Module, data: Tensor, objective: Callable[..., Tensor], *, num_epochs: int = 10, batch_size: int = 128,
        learning_rate: float = 1e-3, seed: int = 0) -> Tensor:
    """Maximises the mean of an objective over the rows of `data` by stochastic gradient ascent (Adam).

    Args:
        model: its parameters are trained in place.
        data: (N, ...), on the model's device.
        objective: ``objective(model, x, generator=...) -> (B,)``, in nats, to be maximised.

    Returns:
        The mean objective of every step, (steps,), in nats.
    """
    stream = generator(seed, data.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    history = []
    for _ in range(num_epochs):
        order = torch.randperm(len(data), generator=stream, device=data.device)
        for rows in order.split(batch_size):
            loss = -objective(model, data[rows], generator=stream).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            history.append(-loss.detach())
    return torch.stack(history)
