"""Flow posteriors for every image at once: an encoder's Gaussian, carried on by a flow that reads the encoder's features.

Source: Rezende & Mohamed (2015), section 4.2, for planar layers; Kingma et al. (2016), for the context h beside mean and scale.
"""

from __future__ import annotations

from torch import Tensor, nn

from tightbound import vae
from tightbound.arguments import one_of
from tightbound.device import seeded
from tightbound.distributions import DiagonalGaussian
from tightbound.flows.coupling import Coupling
from tightbound.flows.flow import FlowDistribution
from tightbound.flows.transforms import Bijection
from tightbound.vae.encoders import DiagonalEncoder, mlp, single
from tightbound.vae.model import VAE
from tightbound.vae.ready import WEIGHTS, load


class FlowEncoder(DiagonalEncoder):
    """q(z | x), the encoder of a VAE: a diagonal Gaussian, and then a flow whose layers depend on x as well::

        h = network(x),    z_0 ~ N(mean(h), diag(exp(log_scale(h))^2)),    z = f(z_0; h)
        log q(z | x) = log N(z_0; mean(h), exp(log_scale(h))^2) - log |det df/dz_0|          (nats)

    Args:
        network: from x (B, D) to features h (B, H).
        num_features: H.
        bijection: f over the d latents, with context_dim H; or 0, for a flow that is the same for every image.

    Raises:
        ValueError: for a bijection that reads a context of another size.
    """

    def __init__(self, network: nn.Module, num_features: int, bijection: Bijection):
        if bijection.context_dim not in (0, num_features):
            raise ValueError(f"the features have size {num_features}, but the flow reads a context of size {bijection.context_dim}: "
                             f"make its layers with context_dim={num_features}")
        super().__init__(network, num_features, bijection.dim)
        self.bijection = bijection.float()

    def forward(self, x: Tensor) -> FlowDistribution:
        h = self.network(x)
        mean, log_scale = single(self.head(h)).chunk(2, -1)
        base = DiagonalGaussian(mean, log_scale.exp(), validate_args=False)
        return FlowDistribution(base, self.bijection, context=single(h),
                                validate_args=False)


ENCODERS = ("gaussian", "flow")


def two_latents_untrained(posterior: str) -> VAE:
    """The model of `two_latents` before its encoder is trained: 64 pixels - 64 - 64 tanh - a Gaussian, or one and two couplings."""
    one_of("posterior", posterior, ENCODERS)
    with seeded(0):
        network = mlp(64, 64, 64)
        encoder = (DiagonalEncoder(network, 64, 2) if posterior == "gaussian" else
                   FlowEncoder(network, 64, Coupling(2, 2, kind="spline", hidden=(32,), context_dim=64)))
    model = vae.two_latents()
    model.encoder = encoder
    model.decoder.requires_grad_(False)
    return model


def two_latents(posterior: str) -> VAE:
    """The VAE of the 8x8 binary digits, `vae.two_latents()`, its decoder untouched, and so log p(x) of every image; but with another
    encoder, trained for it by tools/weights.py: "gaussian", or "flow", which carries the Gaussian on by two spline couplings.

    The two have the same network and the same training: on the training images, and on as many again and more that the model
    itself draws.

    Raises:
        ValueError: for another word.
    """
    return load(two_latents_untrained(posterior), WEIGHTS / f"two_latents_{posterior}.pt").eval().requires_grad_(False)
