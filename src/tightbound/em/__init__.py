"""The evidence lower bound, and EM, which climbs it in two directions by turns.

For any density q that lives inside the support of p(x, z), the bound has three faces, all of them the same number::

    ELBO(q) = E_q[log p(x, z)] + H[q]                      energy and entropy
            = E_q[log p(x | z)] - KL(q(z) || p(z))         reconstruction minus complexity
            = log p(x) - KL(q(z) || p(z | x))              the truth minus the gap

With parameters theta it is a function of two arguments, and EM is coordinate ascent on it::

    E step:  q     <- argmax_q     ELBO(q, theta) = p(z | x, theta)      (now ELBO = log p(x | theta))
    M step:  theta <- argmax_theta ELBO(q, theta) = argmax_theta E_q[log p(x, z | theta)]

Where the E step is not exact, this is variational EM: the bound still rises, the likelihood need not.

Source: Dempster, Laird & Rubin (1977); Neal & Hinton (1998); Jordan, Ghahramani, Jaakkola & Saul (1999);
bits back: Hinton & van Camp (1993), Townsend, Bird & Barber (2019).
"""

from tightbound.em.bits import Stack, counts, receive, send
from tightbound.em.bounds import Faces, approximate, bound, e_step, elbo, faces, hard_e_step, partial_e_step
from tightbound.em.factors import factor_e_step, factor_m_step, linear_autoencoder
from tightbound.em.mixture import (Collapsed, MirroredMixture, Mixture, MixtureFit, fit_mixture, m_step, random_start,
                                   sufficient_statistics)

__all__ = ["Collapsed", "Faces", "MirroredMixture", "Mixture", "MixtureFit", "Stack", "approximate", "bound", "counts", "e_step", "elbo",
           "faces", "factor_e_step", "factor_m_step", "fit_mixture", "hard_e_step", "linear_autoencoder", "m_step", "partial_e_step",
           "random_start", "receive", "send", "sufficient_statistics"]
