"""Mean field: the best approximation whose parts know nothing of each other.

Let q(z) = prod_i q_i(z_i). With all factors but one held still, the bound is highest where that one is::

    q_i(z_i) ∝ exp E_{q_-i}[log p(x, z)],      q_-i = prod_{j ≠ i} q_j

Coordinate ascent takes the factors in turn, and the bound never falls. The expectation is over the *other*
factors, and of the log joint alone: the factor's own -log q_i is not under it.

Five places where the update can be done: any log joint on a grid (`approximate`), Gaussians (`factorise`),
spins (`naive`, and beyond it `bethe`), mixtures (`fit_mixture`), and texts (`fit_topics`).

Source: Peierls (1938); Bogoliubov (1958); Saul, Jaakkola & Jordan (1996); Jordan, Ghahramani, Jaakkola & Saul
(1999).
"""

from tightbound.mean_field.gaussian import (FactorisedGaussian, GaussianPosterior, coordinate_steps,
                                            factorise,
                                            gaussian_process, linear_gaussian, local_level)
from tightbound.mean_field.grid import (GridTooCoarse, MeanFieldError, PiecewiseLinear, TooManyDimensions,
                                       approximate)
from tightbound.mean_field.ising import Spins, bethe, exact_spins, naive, onsager
from tightbound.mean_field.mixture import Mixture, MixturePrior, fit_mixture, mixture_log_evidence
from tightbound.mean_field.topics import Topics, document_bounds, fit_topics, topic_bound

__all__ = ["FactorisedGaussian", "GaussianPosterior", "GridTooCoarse", "MeanFieldError", "Mixture",
           "MixturePrior", "PiecewiseLinear", "Spins",
           "TooManyDimensions", "Topics", "approximate", "bethe", "coordinate_steps", "document_bounds",
           "exact_spins", "factorise",
           "fit_mixture", "fit_topics", "gaussian_process", "linear_gaussian", "local_level",
           "mixture_log_evidence", "naive",
           "onsager", "topic_bound"]
