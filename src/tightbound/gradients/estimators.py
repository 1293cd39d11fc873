"""Estimators of the gradient of an average: one call, one table, whatever the parameters.

Asked for is the gradient of ``F = E_q[f(z)]`` in all that q and f depend on. Every estimator is called alike::

    value, surrogate = estimator(f, q, num_samples, generator=stream)

- `f` maps samples (S, \\*batch, d) to (S, \\*batch); it may hold parameters of its own, and those of q as well;
- `q` is a distribution of batch shape (\\*batch) over vectors (d,): a batch of q's has a gradient estimate each;
- `value` (\\*batch) is the mean of f over the samples, without gradient;
- `surrogate` (\\*batch) is a number without meaning, whose **derivative** is the estimate: ``surrogate.backward()``, and
  ``surrogate.sum().backward()`` for a batch.

An estimator with parameters of its own (`NVIL`, `Relax`) is an `nn.Module` with the same call.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tightbound.arguments import count, positive
from tightbound.distributions import BernoulliVector, draw

Integrand = Callable[[Tensor], Tensor]
MOST_BITS = 16  # of an enumeration


# Any q whose log density has a gradient ------------------------------------------------------------------

def score_function(f: Integrand, q: Distribution, num_samples: int, *, generator: torch.Generator,
                   baseline: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
    """The score-function estimator (REINFORCE, likelihood ratio)::

        ∇F = E_q[(f(z) - b) ∇log q(z) + ∇f(z)],      E_q[∇log q(z)] = 0 for any constant b

    The last term is f's own dependence on the parameters, at a fixed z. It needs no derivative of f in z.

    Args:
        baseline: b, a number or a tensor (\\*batch) that does not depend on the samples.

    Source: Glynn (1990); Williams (1992).
    """
    z = _sample(q, num_samples, generator)
    values, log_q = _evaluate(f, z), q.log_prob(z)
    surrogate = values + (values.detach() - baseline) * log_q
    return _mean(values), surrogate.mean(0)


def leave_one_out(f: Integrand, q: Distribution, num_samples: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The score function with, for every sample, the mean of f over the *other* samples as its baseline::

        ∇F ≈ 1/S sum_s (f(z_s) - b_s) ∇log q(z_s),      b_s = 1/(S-1) sum_{r≠s} f(z_r)

    b_s is independent of z_s, so the estimate is unbiased. It costs nothing but needs two samples.

    Source: Salimans & Knowles (2014); Kool, van Hoof & Welling (2019).
    """
    count("num_samples", num_samples, least=2)
    z = _sample(q, num_samples, generator)
    values, log_q = _evaluate(f, z), q.log_prob(z)
    fixed = values.detach()
    others = (fixed.sum(0) - fixed) / (num_samples - 1)
    surrogate = values + (fixed - others) * log_q
    return _mean(values), surrogate.mean(0)


class NVIL(nn.Module):
    """The score function with a *learned* baseline: a running mean, and a small network of q's own parameters::

        ∇F = E_q[(f(z) - c - C(m)) ∇log q(z)],      m = E_q[z]

    For an encoder m is a summary of the datum x, so C(m) is a baseline that depends on x. c is the running mean of what C leaves. The network learns by the square of
    what both leave, with the same call of `backward` that gives the gradient. (The paper also divides by a running standard
    deviation, which rescales the gradient; that is left to the optimiser here.)

    Args:
        dim: d.
        replicates: leading batch axes (of q, before another one) that learn baselines of their own; () if all share one.
        hidden: tanh units of the network.
        decay: of the running mean c.

    Source: Mnih & Gregor (2014), Neural variational inference and learning in belief networks.
    """

    def __init__(self, dim: int, *, replicates: tuple[int, ...] = (), hidden: int = 16, decay: float = 0.9, seed: int = 0):
        super().__init__()
        count("dim", dim, least=1)
        stream, self.decay = torch.Generator().manual_seed(seed), decay
        first = torch.randn(*replicates, dim, hidden, generator=stream, dtype=torch.float64) / math.sqrt(dim)
        self.first, self.bias = nn.Parameter(first), nn.Parameter(torch.linspace(-1, 1, hidden, dtype=first.dtype).expand(
            *replicates, 1, hidden).clone())
        self.last = nn.Parameter(first.new_zeros(*replicates, hidden, 1))
        self.register_buffer("centre", first.new_zeros(replicates))

    def baseline(self, q: Distribution) -> tuple[Tensor, Tensor]:
        """c and C(m), each to be broadcast to the batch."""
        m = q.mean.detach().unsqueeze(-2) if q.mean.ndim == 1 else q.mean.detach()
        learned = (torch.tanh(m @ self.first + self.bias) @ self.last).squeeze(-1).reshape(q.batch_shape)
        return self.centre.reshape(self.centre.shape + (1,) * (learned.ndim - self.centre.ndim)), learned

    def forward(self, f: Integrand, q: Distribution, num_samples: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        z = _sample(q, num_samples, generator)
        values, log_q = _evaluate(f, z), q.log_prob(z)
        constant, learned = self.baseline(q)
        signal = values.detach() - constant - learned
        surrogate = values + signal.detach() * log_q - signal.square()  # the square trains the network, and it alone
        if self.training:  # after its use: the baseline must not know these samples
            left = (values - learned).detach().mean(0).reshape(*self.centre.shape, -1).mean(-1)
            self.centre.lerp_(left, 1 - self.decay)
        return _mean(values), surrogate.mean(0)


def vimco(f: Integrand, q: Distribution, num_samples: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The gradient of the importance-weighted bound, for f = log w (nats), K = `num_samples`::

        L_K = E[log 1/K sum_k w(z_k)],      ∇L_K ≈ sum_k (L - L_k) ∇log q(z_k) + ∇L

    L_k is L with w(z_k) replaced by the geometric mean of the other weights: a baseline that has not seen z_k. The value is L,
    not the mean of f.

    Source: Mnih & Rezende (2016), Variational inference for Monte Carlo objectives.
    """
    K = count("num_samples", num_samples, least=2)
    z = _sample(q, K, generator)
    log_w, log_q = _evaluate(f, z), q.log_prob(z)
    bound = log_w.logsumexp(0) - math.log(K)
    fixed = log_w.detach()
    stand_in = (fixed.sum(0) - fixed) / (K - 1)
    swapped = torch.where(torch.eye(K, dtype=torch.bool, device=z.device).reshape(K, K, *[1] * (fixed.ndim - 1)),
                          stand_in, fixed)  # row k: all log weights, with the k-th replaced
    signal = bound.detach() - (swapped.logsumexp(1) - math.log(K))
    return bound.detach(), bound + (signal * log_q).sum(0)


# Continuous latents: the derivative goes through the sample ---------------------------------------------------

def pathwise(f: Integrand, q: Distribution, num_samples: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The pathwise (reparametrisation) estimator: z = g(eps), and the derivative goes through g::

        ∇F = E_eps[∇ f(g(eps))]

    Unbiased where f is continuous, and differentiable but for corners.

    Source: Kingma & Welling (2014); Rezende, Mohamed & Wierstra (2014).

    Raises:
        TypeError: for a q whose samples carry no gradient.
    """
    z = _moving_sample(q, num_samples, generator)
    values = _evaluate(f, z)
    return _mean(values), values.mean(0)


def bonnet_price(f: Integrand, q: Distribution, num_samples: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bonnet's and Price's theorems, for a Gaussian q = N(mu, Sigma)::

        ∂F/∂mu = E_q[∇f(z)],      ∂F/∂Sigma = 1/2 E_q[∇²f(z)]
        so, for parameters of mu and of Sigma = L L':   ∇F = E_q[J' ∇mu + 1/2 tr(H ∇Sigma)] = E_q[J' ∇mu + tr(L' H ∇L)]

    J is the gradient and H the Hessian of f, at the cost of d more gradients a sample.

    Source: Bonnet (1964); Price (1958); Rezende, Mohamed & Wierstra (2014).

    Raises:
        TypeError: for a q that is no Gaussian.
    """
    if not (hasattr(q, "loc") and hasattr(q, "covariance_matrix") and q.has_rsample):
        raise TypeError(f"Price's theorem holds for Gaussians; {type(q).__name__} has no mean and covariance matrix. Use pathwise")
    z = _sample(q, num_samples, generator).requires_grad_()
    values = _evaluate(f, z)
    (J,) = torch.autograd.grad(values.sum(), z, create_graph=True)
    H = torch.stack([torch.autograd.grad(J[..., i].sum(), z, retain_graph=True)[0] if J.requires_grad
                     else torch.zeros_like(z) for i in range(z.shape[-1])], -2)
    surrogate = (J.detach().mean(0) * q.loc).sum(-1) + 0.5 * (H.mean(0) * q.covariance_matrix).sum((-2, -1))
    return _mean(values), surrogate + values.mean(0)  # z is a leaf: what is left is f's own dependence


# Bits: q is a `BernoulliVector` -------------------------------------------------------------------------------

def enumeration(f: Integrand, q: BernoulliVector, num_samples: int = 0, *,
                generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """No estimate but the truth, F = sum_b q(b) f(b) over all 2^d values of d bits; `num_samples` is not used.

    Raises:
        ValueError: for more than 16 bits.
    """
    d = count("the number of bits", _bits(q).shape[-1], least=1, most=MOST_BITS)
    states = (torch.arange(2**d, device=q.logits.device).unsqueeze(-1) >> torch.arange(d, device=q.logits.device)) & 1
    b = states.to(q.logits).reshape(2**d, *[1] * (q.logits.ndim - 1), d).expand(2**d, *q.logits.shape)
    values = _evaluate(f, b)
    total = (torch.exp(q.log_prob(b)) * values).sum(0)
    return total.detach(), total


def muprop(f: Integrand, q: BernoulliVector, num_samples: int, *, generator: torch.Generator,
           baseline: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
    """MuProp: the score function of what a tangent of f at the mean m leaves, plus the tangent's own exact gradient::

        h(b) = f(m) + f'(m)'(b - m),      ∇F = E_q[(f(b) - h(b) - c) ∇log q(b)] + f'(m)' ∇m

    f must be defined between the bits. Where f is curved, f - h has a mean, which the tangent leaves to a `baseline` c.

    Source: Gu, Levine, Sutskever & Mnih (2016).
    """
    m = torch.sigmoid(_bits(q)).detach().requires_grad_()
    at_mean = _evaluate(f, m.unsqueeze(0))[0]
    (slope,) = torch.autograd.grad(at_mean.sum(), m)
    b = _sample(q, num_samples, generator)
    values, log_q = _evaluate(f, b), q.log_prob(b)
    tangent = at_mean.detach() + (slope * (b - m.detach())).sum(-1)
    surrogate = values + (values.detach() - tangent - baseline) * log_q
    return _mean(values), surrogate.mean(0) + (slope * q.mean).sum(-1)


def arm(f: Integrand, q: BernoulliVector, num_samples: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment, reinforce, merge: two draws from one uniform u, as unlike as can be, for logits a::

        ∂F/∂a = E_u[(f(1[u > s(-a)]) - f(1[u < s(a)])) (u - 1/2)]

    Two evaluations of f a sample; where the two draws agree the estimate is zero.

    Source: Yin & Zhou (2019).
    """
    u, a = _uniform(q, num_samples, generator), _bits(q)
    one = (u > torch.sigmoid(-a)).to(a)
    other = (u < torch.sigmoid(a)).to(a)
    f_one, f_other = _evaluate(f, one), _evaluate(f, other)
    values, difference = 0.5 * (f_one + f_other), (f_one - f_other).detach()
    surrogate = values + (difference.unsqueeze(-1) * (u - 0.5) * a).sum(-1)
    return _mean(values), surrogate.mean(0)


def rebar(f: Integrand, q: BernoulliVector, num_samples: int, *, generator: torch.Generator, temperature: float = 0.5,
          scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """REBAR: a relaxed bit is the control variate of the hard one, and its own gradient goes along its path::

        y = a + logit(u),    b = 1[y > 0],    y~ ~ q(y | b),    c(y) = eta f(sigmoid(y / temperature))
        ∂F/∂a = E[(f(b) - c(y~)) (b - m) + ∂c(y)/∂a - ∂c(y~)/∂a]

    Unbiased for any temperature and any eta (`scale`). y~ is made from the same noise, so that it equals y, and moves at
    another rate only: dy/da - dy~/da = (1 - m)/u where b = 1, and m/(1 - u) where b = 0. So two evaluations of f a sample do;
    f must be defined between the bits.

    Source: Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein (2017).
    """
    b, y, rate = _logistic(q, num_samples, generator)
    values = _evaluate(f, b)
    c = scale * _evaluate(f, torch.sigmoid(y / temperature))
    (slope,) = torch.autograd.grad(c.sum(), y)
    g = (values - c).detach().unsqueeze(-1) * (b - q.mean) + rate * slope
    return _mean(values), (values + (g.detach() * q.logits).sum(-1)).mean(0)


class Relax(nn.Module):
    """RELAX: REBAR whose control variate learns, by descending the variance of the gradient itself::

        c(y) = eta f(sigmoid(y / temperature)) + r(y),      g as in `rebar`,      ∇_psi Var(g) = ∇_psi E[g²]

    psi are eta, the temperature and the small network r. As the mean of g is the same for every psi, less square is less
    variance. They learn with the same call of `backward`, which for them carries minus that gradient.

    Args:
        dim: d.
        hidden: tanh units of r.
        temperature: to start from.

    Source: Grathwohl, Choi, Wu, Roeder & Duvenaud (2018).
    """

    def __init__(self, dim: int, *, hidden: int = 8, temperature: float = 0.5, seed: int = 0):
        super().__init__()
        count("dim", dim, least=1)
        stream = torch.Generator().manual_seed(seed)
        start = torch.tensor(positive("temperature", temperature), dtype=torch.float64)
        self.log_temperature, self.scale = nn.Parameter(start.log()), nn.Parameter(torch.ones_like(start))
        self.first = nn.Parameter(torch.randn(dim, hidden, generator=stream, dtype=torch.float64) / math.sqrt(dim))
        self.last = nn.Parameter(torch.zeros(hidden, dtype=torch.float64))

    def control(self, f: Integrand, y: Tensor) -> Tensor:
        """c(y): (S, \\*batch, d) -> (S, \\*batch)."""
        relaxed = _evaluate(f, torch.sigmoid(y / self.log_temperature.exp()))
        return self.scale * relaxed + torch.tanh(y @ self.first) @ self.last

    def forward(self, f: Integrand, q: BernoulliVector, num_samples: int, *,
                generator: torch.Generator) -> tuple[Tensor, Tensor]:
        b, y, rate = _logistic(q, num_samples, generator)
        values, c = _evaluate(f, b), self.control(f, y)
        (slope,) = torch.autograd.grad(c.sum(), y, create_graph=True)
        g = ((values.detach() - c).unsqueeze(-1) * (b - q.mean.detach()) + rate * slope).mean(0)
        surrogate = values.mean(0) + (g.detach() * q.logits).sum(-1)
        if self.training:
            psi = list(self.parameters())
            slopes = torch.autograd.grad(g.square().sum(-1).mean(), psi)
            descend = sum((p * slope).sum() for p, slope in zip(psi, slopes))  # its derivative in psi is the slope
            surrogate = surrogate - (descend - descend.detach()) / surrogate.numel()
        return _mean(values), surrogate


def straight_through(f: Integrand, q: BernoulliVector, num_samples: int, *,
                     generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Straight through: f of the hard bits, and a derivative as if the bits had been their means m. **Biased**::

        ∇F "=" E_q[f'(b)' ∇m]

    Source: Bengio, Léonard & Courville (2013), after Hinton.
    """
    b, m = _sample(q, num_samples, generator), torch.sigmoid(_bits(q))
    values = _evaluate(f, b + (m - m.detach()))
    return _mean(values), values.mean(0)


def darn(f: Integrand, q: BernoulliVector, num_samples: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """DARN's half: straight through, with each bit's slope divided by twice its probability. **Biased**, but where f is
    at most quadratic in every bit::

        ∇F "=" E_q[sum_i f_i'(b) ∇m_i / (2 q(b_i))],      for then f(1) - f(0) = 1/2 (f'(0) + f'(1))

    Source: Gregor, Danihelka, Mnih, Blundell & Wierstra (2014); Gu, Levine, Sutskever & Mnih (2016).
    """
    m = torch.sigmoid(_bits(q))
    b = _sample(q, num_samples, generator).requires_grad_()
    values = _evaluate(f, b)
    (slope,) = torch.autograd.grad(values.sum(), b, retain_graph=True)
    probability = torch.where(b > 0.5, m, 1 - m).detach()
    surrogate = values + (slope / (2 * probability) * m).sum(-1)
    return _mean(values), surrogate.mean(0)


def gumbel_softmax(f: Integrand, q: BernoulliVector, num_samples: int, *, generator: torch.Generator,
                   temperature: float = 0.5, hard: bool = False) -> tuple[Tensor, Tensor]:
    """Gumbel-softmax (the Concrete distribution), for bits: a relaxed bit with a pathwise gradient. **Biased**::

        s = sigmoid((a + logit(u)) / temperature),      ∇F "=" E_u[∇f(s)]

    With two categories the difference of two Gumbels is logistic, logit(u). At temperature zero s is the bit itself, and its
    derivative is gone.

    Args:
        hard: evaluate f at the hard bit, and take the derivative of the relaxed one (straight-through Gumbel).

    Source: Maddison, Mnih & Teh (2017); Jang, Gu & Poole (2017).
    """
    positive("temperature", temperature)
    y = _bits(q) + torch.logit(_uniform(q, num_samples, generator))
    s = torch.sigmoid(y / temperature)
    values = _evaluate(f, (y > 0).to(s) + (s - s.detach()) if hard else s)
    return _mean(values), values.mean(0)


# What they share ----------------------------------------------------------------------------------------------

def _sample(q: Distribution, num_samples: int, generator: torch.Generator) -> Tensor:
    """z (S, \\*batch, d), without gradient."""
    count("num_samples", num_samples, least=1)
    with torch.no_grad():
        if isinstance(q, BernoulliVector):
            return q.sample((num_samples,), generator=generator)
        return draw(q, (num_samples,), generator=generator)[0]


def _moving_sample(q: Distribution, num_samples: int, generator: torch.Generator) -> Tensor:
    """z = g(eps), (S, \\*batch, d), with its derivative in the parameters of q."""
    count("num_samples", num_samples, least=1)
    if not q.has_rsample:
        raise TypeError(f"{type(q).__name__} cannot be reparametrised: its samples jump as its parameters move. Use "
                        "score_function or leave_one_out, which need only log q")
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob((num_samples,), generator=generator)[0]
    with torch.random.fork_rng([generator.device] if generator.device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        return q.rsample((num_samples,))  # torch's own take no generator


def _uniform(q: Distribution, num_samples: int, generator: torch.Generator) -> Tensor:
    """Uniform noise on (0, 1) for every bit, (S, \\*batch, d)."""
    count("num_samples", num_samples, least=1)
    a = _bits(q)
    u = torch.rand((num_samples, *a.shape), generator=generator, dtype=a.dtype, device=a.device)
    return u.clamp(torch.finfo(a.dtype).tiny, 1 - torch.finfo(a.dtype).eps)


def _logistic(q: Distribution, num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """b = 1[y > 0] and y = a + logit(u), each (S, \\*batch, d), and by how much y moves faster with a than y~ given b."""
    u = _uniform(q, num_samples, generator)
    a = _bits(q).detach()
    y, m = a + torch.logit(u), torch.sigmoid(a)
    return (y > 0).to(a), y.requires_grad_(), torch.where(y > 0, (1 - m) / u, m / (1 - u)).detach()


def _bits(q: Distribution) -> Tensor:
    if not isinstance(q, BernoulliVector):
        raise TypeError(f"this estimator is for bits: q must be a BernoulliVector, got {type(q).__name__}. "
                        "score_function, leave_one_out and NVIL take any q with a log_prob")
    return q.logits


def _evaluate(f: Integrand, z: Tensor) -> Tensor:
    """f(z), or a clear error where it is no number a sample."""
    values = f(z)
    if not isinstance(values, Tensor) or values.shape != z.shape[:-1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"f must map samples {tuple(z.shape)} to one number each, {tuple(z.shape[:-1])}, but it returned "
                         f"{got}: sum over the last axis only, with .sum(-1)")
    if bool(torch.isnan(values.detach()).any()):
        raise ValueError("f returned NaN: one such sample spoils the whole gradient. Look at f where the samples fall")
    return values


def _mean(values: Tensor) -> Tensor:
    return values.detach().mean(0)
