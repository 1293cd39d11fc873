"""Stochastic variational inference: climb the bound by noisy steps, and know when to stop.

The bound is an average, over noise and over data. A few draws of either give a gradient that is right on average, and
steps rho_t along it that shrink slowly enough arrive (Robbins & Monro)::

    ELBO(lambda) = E_eps[log p(x, z_lambda(eps)) - log q_lambda(z_lambda(eps))]
    lambda_{t+1} = lambda_t + rho_t g_t,       E[g_t] = grad ELBO(lambda_t),     sum rho_t = inf,   sum rho_t^2 < inf

Where a step stays at a constant size the iterates end in a cloud around the optimum, whose average is far better than any of
them. `approximate` stands on that: it moves until the cloud stands still, averages, halves the step, and stops when the
bound no longer gains. `fit_topics` steps along the natural gradient of the global parameters of a conjugate model.

Source: Robbins & Monro (1951); Polyak & Juditsky (1992); Hoffman, Blei, Wang & Paisley (2013); Kucukelbir, Tran, Ranganath,
Gelman & Blei (2017); Dhaka, Catalina, Andersen, Magnusson, Huggins & Vehtari (2020); Welandawe, Andersen, Vehtari & Huggins
(2024).
"""

from tightbound.svi.rounds import approximate, r_hat
from tightbound.svi.steps import STEPS, Adam, NaturalGradient, SVIError, ascend
from tightbound.svi.topics import StochasticTopics, completion, fit_topics

__all__ = ["STEPS", "Adam", "NaturalGradient", "SVIError", "StochasticTopics", "approximate", "ascend", "completion", "fit_topics", "r_hat"]
