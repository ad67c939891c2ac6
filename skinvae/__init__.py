"""skinvae: learns what a normal dermoscopy image looks like and says of every image how anomalous it is.

The method is Lu & Xu 2018 (arXiv:1807.01349): a convolutional VAE whose ELBO and IWAE bounds are anomaly scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skinvae.api import Model, load_model, read_maps, read_scores, score_images

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load_model", "read_maps", "read_scores", "score_images"]


def __getattr__(name: str) -> Any:
    """Names of `skinvae.api`, which brings torch along, when they are asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'skinvae' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module("skinvae.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
