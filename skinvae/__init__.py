"""skinvae: learns what a normal dermoscopy image looks like and says of every image how anomalous it is.

The method is Lu & Xu 2018 (arXiv:1807.01349): a convolutional VAE whose ELBO and IWAE bounds are anomaly scores.
"""

__version__ = "0.1.0"
