"""How clusters are made that run skinvae, and what checks the files that describe them."""
