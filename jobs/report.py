"""Report on a score table, as a Ray job: `ray job submit --working-dir . -- python jobs/report.py --help`."""

from skinvae.cli import run_verb

if __name__ == "__main__":
    run_verb("report")
