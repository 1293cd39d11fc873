"""Variational auto-encoders: models, encoders, objectives and their evaluation."""

from tightbound.vae.encoders import DiagonalEncoder, mlp
from tightbound.vae.evaluate import Evidence, annealed, exact, frozen, importance_sampled
from tightbound.vae.likelihoods import Bernoulli
from tightbound.vae.model import VAE
from tightbound.vae.objectives import elbo, iwae_bound, log_weights, split
from tightbound.vae.ready import binary_digits, two_latents

__all__ = ["VAE", "Bernoulli", "DiagonalEncoder", "Evidence", "annealed", "binary_digits", "elbo", "exact", "frozen",
           "importance_sampled", "iwae_bound", "log_weights", "mlp", "split", "two_latents"]
