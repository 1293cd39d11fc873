"""Variational auto-encoders: models, encoders, objectives and their evaluation."""

from tightbound.vae.encoders import DiagonalEncoder, mlp
from tightbound.vae.likelihoods import Bernoulli
from tightbound.vae.model import VAE
from tightbound.vae.objectives import elbo, iwae_bound, log_weights, split

__all__ = ["VAE", "Bernoulli", "DiagonalEncoder", "elbo", "iwae_bound", "log_weights", "mlp", "split"]
