"""Decode archives once, as a Ray job: `ray job submit --working-dir . -- python jobs/prepare.py --help`."""

from skinvae.cli import run_verb

if __name__ == "__main__":
    run_verb("prepare")
