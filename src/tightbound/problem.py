"""A latent-variable question: a log joint over R^d and, where it is known, its exact log evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from tightbound.device import choose, generator, meet
from tightbound.estimate import Estimate


class Problem:
    """A question about latents z in R^d, asked through the log joint of the data and z::

        log_joint(z) = log p(x, z)        (nats),    log_evidence = log p(x) = log ∫ exp(log_joint(z)) dz

    It counts the evaluations of its log joint, the cost of every method: a value or a gradient at one point counts one,
    a Hessian counts d.

    Args:
        log_joint: maps z of shape (..., d) to (...), in nats; -inf outside of the support.
        dim: d, the number of latents.
        name: how the league calls it.
        latents: the d names of the coordinates; z1, ..., zd if left out.
        log_evidence: the exact log evidence: an `Estimate`, or a number in nats; None where it is unknown.
        constrain: maps z (..., d) to a dictionary of the latents as the model knows them.
        box: ((low, high), ...) a pair a coordinate, where the density is confined to a box.
        dtype, device: of the points that methods make, and where the tensors in `log_joint` are; double precision on the
            CPU if left out, whatever the machine has: a problem of few latents gains nothing from a GPU.

    Raises:
        ValueError, TypeError: for a dimension below one, names or a box of another length, a log joint that is no function.
    """

    def __init__(self, log_joint: Callable[[Tensor], Tensor], dim: int, *, name: str = "problem",
                 latents: list[str] | None = None, log_evidence: Estimate | float | None = None,
                 constrain: Callable[[Tensor], dict[str, Tensor]] | None = None,
                 box: tuple[tuple[float, float], ...] | None = None,
                 dtype: torch.dtype = torch.float64, device: str | torch.device | None = None):
        if not callable(log_joint):
            raise TypeError(f"log_joint must be a function from (..., d) to (...), got {type(log_joint).__name__}")
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"a problem needs at least one latent: dim must be a positive integer, got {dim!r}")
        latents = list(latents) if latents is not None else [f"z{i + 1}" for i in range(dim)]
        if len(latents) != dim:
            raise ValueError(f"{name!r} has {dim} latents, but {len(latents)} names were given: {latents}")
        if box is not None and (len(box) != dim or any(not -math.inf < low < high < math.inf for low, high in box)):
            raise ValueError(f"the box of {name!r} must hold {dim} finite pairs (low, high) with low < high, got {box}")
        if log_evidence is not None and not isinstance(log_evidence, Estimate):
            log_evidence = Estimate(log_evidence)
        self._log_joint, self.dim, self.name, self.latents = log_joint, dim, name, latents
        self.log_evidence, self.box, self.dtype = log_evidence, box, dtype
        self.device = choose(device or "cpu", dtype=dtype)
        self.constrain = constrain or (lambda z: dict(zip(latents, z.unbind(-1))))
        self.evaluations = 0

    @classmethod
    def constrained(cls, log_joint: Callable[..., Tensor],
                    supports: Mapping[str, constraints.Constraint | tuple[constraints.Constraint, int]],
                    **options) -> Problem:
        """A problem whose latents are constrained, moved to R^d by `torch.distributions.biject_to`.

        With x = T(z), one bijection a latent, the density of z is that of x times the volume that T makes::

            log p(data, z) = log p(data, x = T(z)) + log |det dT/dz|

        Args:
            log_joint: a function of the latents by name, each (...) or, for a vector of size k, (..., k); returns (...).
                Give distributions double-precision parameters: torch's Gamma rounds to the precision of its own.
            supports: the support of each latent, ``{"mu": real, "tau": positive}``; a vector is ``(real, 8)``.
        """
        sizes = {key: (value[1] if isinstance(value, tuple) else None) for key, value in supports.items()}
        maps = {key: biject_to(value[0] if isinstance(value, tuple) else value) for key, value in supports.items()}
        columns, start = {}, 0
        for key, size in sizes.items():
            columns[key] = start if size is None else slice(start, start + size)
            start += 1 if size is None else size

        def constrain(z: Tensor) -> dict[str, Tensor]:
            return {key: maps[key](z[..., column]) for key, column in columns.items()}

        def unconstrained(z: Tensor) -> Tensor:
            x, total = constrain(z), 0.0
            for key, column in columns.items():
                volume = maps[key].log_abs_det_jacobian(z[..., column], x[key])
                total = total + (volume if sizes[key] is None else volume.sum(-1))
            return log_joint(**x) + total

        names = [key if size is None else f"{key}{i + 1}" for key, size in sizes.items() for i in range(size or 1)]
        return cls(unconstrained, start, constrain=constrain, **{"latents": names, **options})

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(x, z) in nats: (..., d) -> (...).

        Raises:
            TypeError: when z, or what the log joint returns, is no tensor.
            ValueError: when z has another last dimension, or the log joint returns another shape, NaN or +inf.
        """
        self._check(z)
        value = self._unchecked(z)
        self.evaluations += value.numel()
        if value.numel() and not bool(value.detach().amax() < torch.inf):  # a NaN is below nothing, and the largest of all
            bad = (torch.isnan(value) | (value == torch.inf)).reshape(-1).nonzero()[0, 0]
            raise ValueError(f"the log joint of {self.name!r} is {value.reshape(-1)[bad].item()} at z = "
                             f"{z.detach().reshape(-1, self.dim)[bad].tolist()}; it must be finite, or -inf outside "
                             "of the support")
        return value

    def _check(self, z: Tensor) -> None:
        if not isinstance(z, Tensor):
            raise TypeError(f"{self.name!r} takes a torch.Tensor of shape (..., {self.dim}), got {type(z).__name__}: "
                            "wrap it in torch.tensor(..., dtype=torch.float64)")
        meet(z, self.device, what="z", whose=f"the problem {self.name!r}")
        if z.shape[-1:] != (self.dim,):
            raise ValueError(f"{self.name!r} has {self.dim} latents: expected z of shape (..., {self.dim}), "
                             f"got {tuple(z.shape)}")

    def _unchecked(self, z: Tensor) -> Tensor:
        value = self._log_joint(z)
        if not isinstance(value, Tensor):
            raise TypeError(f"the log joint of {self.name!r} must return a torch.Tensor, got {type(value).__name__}")
        if value.shape != z.shape[:-1]:
            raise ValueError(f"the log joint of {self.name!r} must map (..., {self.dim}) to (...): for z of shape "
                             f"{tuple(z.shape)} expected {tuple(z.shape[:-1])}, got {tuple(value.shape)}. "
                             "Sum over the last dimension only, with .sum(-1)")
        return value

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, z) and its gradient in z: (..., d) -> (...), (..., d).

        Raises:
            ValueError: when the log joint has left torch on its way (for NumPy, or a number), so that it has no gradient.
        """
        self._check(z)
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            value = self.log_joint(z)
            if not value.requires_grad:
                raise ValueError(f"the log joint of {self.name!r} has no gradient: write it in torch operations on z all "
                                 "the way, without .item(), .detach() or NumPy")
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient

    def hessian(self, z: Tensor) -> Tensor:
        """Second derivatives of log p(x, z) in z, reverse over reverse: (..., d) -> (..., d, d)."""
        self._check(z)
        flat = z.detach().reshape(-1, self.dim).requires_grad_(True)
        self.evaluations += flat.shape[0] * self.dim
        units = torch.eye(self.dim, dtype=z.dtype, device=z.device).unsqueeze(1).expand(-1, len(flat), -1)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._unchecked(flat).sum(), flat, create_graph=True)
            if not gradient.requires_grad:  # a log joint that is linear in z
                return z.new_zeros(*z.shape, self.dim)
            (rows,) = torch.autograd.grad(gradient, flat, units, is_grads_batched=True, allow_unused=True, materialize_grads=True)
        return rows.transpose(0, 1).reshape(*z.shape, self.dim)

    def points(self, num_points: int, *, seed: int | torch.Generator = 0, scale: float = 2.0) -> Tensor:
        """Points to start a search from: (m, d), m <= num_points, where the log joint is finite.

        They are the origin (or the middle of the box) and draws from N(0, scale^2) (or uniform ones from the box).

        Raises:
            ValueError: when the log joint is finite at none of a thousand of them, or none is asked for.
        """
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}")
        stream = generator(seed)
        shape = (max(1000, num_points), self.dim)
        if self.box is None:
            z = scale * torch.randn(shape, generator=stream, dtype=self.dtype, device=stream.device)
            z[0] = 0.0
        else:
            low, high = torch.tensor(self.box, dtype=self.dtype, device=stream.device).T
            z = low + (high - low) * torch.rand(shape, generator=stream, dtype=self.dtype, device=stream.device)
            z[0] = 0.5 * (low + high)
        z = z.to(self.device)
        finite = torch.isfinite(self.log_joint(z[:num_points]))
        if not finite.any():
            finite = torch.isfinite(self.log_joint(z))
        if not finite.any():
            raise ValueError(f"the log joint of {self.name!r} is finite at none of the {len(z)} points tried: "
                             "check its support, or give starting points where it is finite")
        return z[: len(finite)][finite][:num_points]

    def __repr__(self) -> str:
        known = f"log evidence {self.log_evidence}" if self.log_evidence else "log evidence unknown"
        return f"Problem({self.name!r}, {self.dim} latent{'s' * (self.dim > 1)}, {known})"


class DataProblem(Problem):
    """A question whose N data are independent given the latents, so that a few of them, scaled up, can stand for all::

        log p(x, z) = log p(z) + sum_n log p(x_n | z)
        minibatch:    log p(z) + N/b sum_{n in B} log p(x_n | z)      (b data B, drawn at random: unbiased at every z)

    A minibatch of b data costs b/N of an evaluation.

    Args:
        log_prior: log p(z), (..., d) -> (...).
        log_likelihood: a function of z (..., d) and of rows of the data, returns log p(x_n | z) of each row, (..., b).
        data: a tensor whose first axis are the N data, or a tuple of several such tensors.
        dim, options: as of `Problem`.

    Raises:
        ValueError: for data of different lengths, or none.
    """

    def __init__(self, log_prior: Callable[[Tensor], Tensor], log_likelihood: Callable[..., Tensor],
                 data: Tensor | tuple[Tensor, ...], dim: int, **options):
        self.data = data if isinstance(data, tuple) else (data,)
        if not self.data or len({len(rows) for rows in self.data}) != 1 or len(self.data[0]) == 0:
            raise ValueError("the data must be one tensor or a tuple of tensors with N rows each, N at least 1, got lengths "
                             f"{[len(rows) for rows in self.data]}")
        self.num_data, self._parts = len(self.data[0]), (log_prior, log_likelihood)
        super().__init__(lambda z: log_prior(z) + log_likelihood(z, *self.data).sum(-1), dim, **options)

    def minibatch(self, z: Tensor, indices: Tensor) -> Tensor:
        """The log joint estimated from the data at `indices` (b,), in nats: (..., d) -> (...)."""
        self._check(z)
        log_prior, log_likelihood = self._parts
        part = log_likelihood(z, *(rows[indices] for rows in self.data))
        self.evaluations += part.numel() / self.num_data
        return log_prior(z) + self.num_data / len(indices) * part.sum(-1)
