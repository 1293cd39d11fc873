"""Iterative amortised inference: inference that looks at what it has done, and learns how to go on."""

from tightbound.iterative.bound import Nodes, draws, elbo, errors, gradient, hermite, member, numbers
from tightbound.iterative.examples import (Scene, Schools, folded_bound, folded_vae, kalman, linear_gaussian_posterior,
                                           posterior_mean, results, scene_vae, schools_encoder, sentence_vae, sequences, simulate,
                                           two_latents_rule, two_level_gaps)
from tightbound.iterative.inference import (Alternating, Gaps, Inference, aggressive, gaps, optimise,
                                            unrolled)
from tightbound.iterative.rules import Adam, Ascent, Learned, Signal, log_scaled

__all__ = ["Adam", "Alternating", "Ascent", "Gaps", "Inference", "Learned", "Nodes", "Scene", "Schools", "Signal",
           "aggressive", "draws", "elbo", "errors", "folded_bound", "folded_vae", "gaps", "gradient",
           "hermite", "kalman", "linear_gaussian_posterior", "log_scaled", "member", "numbers", "optimise",
           "posterior_mean", "results", "scene_vae", "schools_encoder", "sentence_vae", "sequences", "simulate", "two_latents_rule",
           "two_level_gaps", "unrolled"]
