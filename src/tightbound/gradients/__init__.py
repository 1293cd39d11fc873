"""Gradients of averages: how to climb a bound that can only be sampled.

Asked for is the gradient of an expectation in the parameters of what it is taken over::

    ∇_phi E_{q_phi}[f(z)] = E_q[f(z) ∇log q_phi(z)]        (score function: any q, any f)
                          = E_eps[∇_phi f(g_phi(eps))]     (pathwise: z = g_phi(eps), f smooth)

An estimator is called ``value, surrogate = estimator(f, q, num_samples, generator=stream)``; the derivative of the surrogate is
the estimate. All are peers, so one loop (`climb`) trains with any, and one measurement (`replicate`) compares them.

Source: Mohamed, Rosca, Figurnov & Mnih (2020), Monte Carlo gradient estimation in machine learning.
"""

from tightbound.gradients.belief_net import BeliefNet, minibatches
from tightbound.gradients.estimators import (NVIL, Relax, arm, bonnet_price, darn, enumeration, gumbel_softmax, leave_one_out,
                                             muprop, pathwise, rebar, score_function, straight_through, vimco)
from tightbound.gradients.ascent import Moments, approximate, climb, moments, replicate, toy, toy_gradient

__all__ = ["NVIL", "BeliefNet", "Moments", "Relax", "approximate", "arm", "bonnet_price", "climb", "darn", "enumeration",
           "gumbel_softmax", "leave_one_out", "minibatches", "moments", "muprop", "pathwise", "rebar", "replicate",
           "score_function", "straight_through", "toy", "toy_gradient", "vimco"]
