"""When VAEs fail, and what helps: measures of collapse, the linear case that is exact, remedies, and models to try them on.

The bound of a VAE is reconstruction minus rate, and the rate has parts of its own::

    rate   R = E_x KL(q(z | x) || p(z)) = sum_j R_j      where q and the prior are independent over units
             = I_q(x; z) + KL(q(z) || p(z)),             q(z) = E_x q(z | x), the aggregated posterior

A unit whose R_j is zero tells the decoder nothing: it has collapsed. All expectations over x are means over the rows given.

Source: Bowman et al. (2016); Burda, Grosse & Salakhutdinov (2016); Hoffman & Johnson (2016); Lucas et al. (2019).
"""

import json
from functools import lru_cache
from pathlib import Path

from tightbound.vae_practice.adversarial import GAN, fit_gan, game_value
from tightbound.vae_practice.examples import Folded, convolutional_vae, curved, dense_vae, two_modes, two_modes_log_prob
from tightbound.vae_practice.linear import (FixedNoise, LinearEncoder, OwnNoise, WaterFilling, fit_linear, linear_bound,
                                            linear_vae, principal_variances, single_unit_bound, water_filling)
from tightbound.vae_practice.measures import (Surgery, defended_log_evidence, gaussian_rates, grid_log_evidence, surgery,
                                              unit_rates)
from tightbound.vae_practice.objectives import Objective, remedies, two_latent_objectives
from tightbound.vae_practice.sentences import END, UNKNOWN, SentenceVAE, Sentences, Text, character_names, novel, number

__all__ = ["END", "GAN", "UNKNOWN", "FixedNoise", "Folded", "LinearEncoder", "Objective", "OwnNoise", "SentenceVAE", "Sentences",
           "Surgery", "Text", "WaterFilling", "character_names", "convolutional_vae", "curved", "defended_log_evidence",
           "dense_vae", "fit_gan", "fit_linear", "game_value", "gaussian_rates", "grid_log_evidence", "linear_bound",
           "linear_vae", "novel", "number", "principal_variances", "remedies", "results", "single_unit_bound", "surgery",
           "two_latent_objectives", "two_modes", "two_modes_log_prob", "unit_rates", "water_filling"]

RESULTS = Path(__file__).with_name("results.json")


@lru_cache
def results() -> dict:
    """What ``python benchmarks/seeds/vae_practice.py`` found over ten seeds, with its machine and its time."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))
