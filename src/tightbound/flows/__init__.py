"""Normalizing flows: densities made by bending a simple one, exactly, layer by layer.

With x ~ p_0 and an invertible map f::

    log q(f(x)) = log p_0(x) - log |det df/dx|          (nats)

One class of maps, `Bijection`, is a `torch.distributions.Transform` and an `nn.Module` at once; a `Flow` is a base and a bijection, and
calling it returns a `Distribution`. `approximate` fits a flow to a posterior, `fit_density` to data.

Source: Tabak & Turner (2013); Rezende & Mohamed (2015); Papamakarios et al. (2021), Normalizing flows for probabilistic modeling and
inference.
"""

from tightbound.flows.amortised import FlowEncoder
from tightbound.flows.autoregressive import MADE, Autoregressive
from tightbound.flows.coupling import Coupling
from tightbound.flows.fit import DensityFit, NoCompiler, approximate, compiled, fit_density, negative_log_likelihood, training_step
from tightbound.flows.flow import KINDS, Flow, FlowDistribution, StandardNormal, make
from tightbound.flows.manifolds import ExponentialMap, TorusCoupling, UniformSphere, UniformTorus, moebius, tangents
from tightbound.flows.planes import Plane
from tightbound.flows.spline import Spline, rational_quadratic
from tightbound.flows.transforms import (ActNorm, Affine, Bijection, Box, Chain, FlowError, Inverse, InverseNotConverged, Network,
                                         NotFinite, Permute, Planar, Radial, bisect)

__all__ = ["KINDS", "MADE", "ActNorm", "Affine", "Autoregressive", "Bijection", "Box", "Chain", "Coupling", "DensityFit",
           "ExponentialMap", "Flow", "FlowDistribution", "FlowEncoder", "FlowError", "Inverse", "InverseNotConverged", "Network", "NoCompiler",
           "NotFinite", "Permute", "Planar", "Plane", "Radial", "Spline", "StandardNormal", "TorusCoupling", "UniformSphere", "UniformTorus",
           "approximate", "bisect", "compiled", "fit_density", "make", "moebius", "negative_log_likelihood", "rational_quadratic",
           "tangents", "training_step"]
