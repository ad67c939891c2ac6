"""`python -m skinvae`: the command, where its script is not on the PATH."""

from skinvae.cli import main

main()
