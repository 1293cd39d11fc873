"""Approximate inference and deep generative models, each approximation measured against an exact answer.

The package of the book *Tightening the Bound*. One identity carries it::

    log p(x) = E_q[log p(x, z) - log q(z)] + KL(q(z) || p(z | x))
"""

from tightbound import (device, distributions, divergences, em, exact, families, flows, gradients, importance,
                        iterative, laplace, mean_field, perturbation, problems, questions, svi, training, vae,
                        vae_practice)
from tightbound.approximation import Approximation, League, effective_sample_size, league
from tightbound.estimate import Estimate
from tightbound.problem import DataProblem, Problem

__version__ = "0.1.0"

__all__ = ["Approximation", "DataProblem", "Estimate", "League", "Problem", "device", "distributions",
           "divergences", "effective_sample_size", "em", "exact", "families", "flows", "gradients",
           "importance", "iterative", "laplace", "league", "mean_field", "perturbation", "problems", "questions", "svi",
           "training", "vae", "vae_practice"]
