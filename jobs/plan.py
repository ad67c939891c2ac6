"""Say what scoring archives would take, as a Ray job: `ray job submit ... -- python jobs/plan.py --help`."""

from skinvae.cli import run_verb

if __name__ == "__main__":
    run_verb("plan")
