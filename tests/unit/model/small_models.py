"""Small VAEs of which no layer is trivial."""

from __future__ import annotations

import torch

from skinvae.model.vae import VAE, ModelSettings


def trained_a_little(settings: ModelSettings) -> VAE:
    """In evaluation mode, its batch norms with statistics and scales of their own."""
    torch.manual_seed(0)
    model = VAE(settings)
    size = settings.image_size
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, 3, size, size) * 2 - 1, torch.randn(16, settings.num_latents))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return model.eval()
