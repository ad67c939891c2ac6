"""Export a table, as a Ray job near the data: `ray job submit --working-dir . -- python jobs/export.py --help`."""

from skinvae.cli import run_verb

if __name__ == "__main__":
    run_verb("export")
