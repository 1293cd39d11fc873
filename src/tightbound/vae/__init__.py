"""Variational auto-encoders: models, encoders, objectives and their evaluation."""

from tightbound.vae.encoders import DiagonalEncoder, FullEncoder, LowRankEncoder, PiecewiseEncoder, mlp
from tightbound.vae.evaluate import Evidence, active_units, annealed, exact, frozen, importance_sampled
from tightbound.vae.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Gaussian
from tightbound.vae.model import VAE, HierarchicalVAE, make
from tightbound.vae.objectives import elbo, iwae_bound, log_weights, split
from tightbound.vae.ready import binary_digits, two_latents

__all__ = ["VAE", "Bernoulli", "Categorical", "DiagonalEncoder", "DiscretisedLogistic", "Evidence", "FullEncoder",
           "Gaussian", "HierarchicalVAE", "LowRankEncoder", "PiecewiseEncoder", "active_units", "annealed",
           "binary_digits", "elbo", "exact", "frozen", "importance_sampled", "iwae_bound", "log_weights", "make", "mlp",
           "split", "two_latents"]
