"""What is asked, each question with its exact answer: builders of a `Problem` (or of a discrete model)."""

from tightbound.problems.bayesian import (EIGHT_SCHOOLS_SIGMA, EIGHT_SCHOOLS_Y, coin, eight_schools,
                                          linear_regression, logistic_regression)
from tightbound.problems.densities import (banana, energy, funnel, heavy_tail, quartic, ring, rosenbrock,
                                           two_modes)
from tightbound.problems.discrete import GaussianMixture, Ising, gaussian_mixture

__all__ = ["EIGHT_SCHOOLS_SIGMA", "EIGHT_SCHOOLS_Y", "GaussianMixture", "Ising", "banana", "coin",
           "eight_schools", "energy", "funnel", "gaussian_mixture", "heavy_tail", "linear_regression",
           "logistic_regression", "quartic", "ring", "rosenbrock", "two_modes"]
