"""Chaos: whole scoring jobs under faults that seeds choose, each compared bit for bit to a run without faults.

python -m tests.chaos --save                             every scenario with its usual seeds; docs/reliability.md
python -m tests.chaos driver-killed --seeds 0:40         one scenario
python -m tests.chaos driver-killed --seeds 13           one history again
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence

from tests.chaos.outcome import Outcome
from tests.chaos.report import save
from tests.chaos.scenarios import SCENARIOS, play
from tests.chaos.world import open_world

USUAL_SEEDS = {
    "driver-killed": range(17),
    "two-drivers": range(6),
    "workers-killed": range(3),
    "node-killed": range(3),
    "unreliable-s3": range(3),
    "answers-lost": range(5),
    "access-lost": range(4),
    "stopped": range(4),
    "everything": range(3),
    "vae": range(2),
}
"""In a history of killed drivers there are at least 12 kills: in 17 of them more than 200."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--seeds", type=parse_seeds, help="FIRST:BEHIND, or one seed", metavar="SEEDS")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--slice-size", type=int, default=4)
    parser.add_argument(
        "--seconds-per-image", type=float, default=0.01, help="that the scorer takes, as a real one would"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results and docs/reliability.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenario) - set(SCENARIOS):
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}: there are {', '.join(SCENARIOS)}")
    outcomes: list[Outcome] = []
    for name in arguments.scenario or SCENARIOS:
        seeds = arguments.seeds if arguments.seeds is not None else USUAL_SEEDS[name]
        num_nodes = 2 if name == "node-killed" else 1
        with open_world(
            num_images=arguments.images,
            slice_size=arguments.slice_size,
            seconds_per_image=arguments.seconds_per_image,
            num_nodes=num_nodes,
            is_vae=name == "vae",
        ) as world:
            for seed in seeds:
                outcomes.append(play(world, name, seed))
                say(outcomes[-1])
        if arguments.save:
            save(
                [one for one in outcomes if one.scenario == name],
                num_images=arguments.images,
                slice_size=arguments.slice_size,
            )
    return 0 if all(outcome.is_right for outcome in outcomes) else 1


def parse_seeds(text: str) -> Sequence[int]:
    """'3' or '0:40'."""
    first, colon, behind = text.partition(":")
    with contextlib.suppress(ValueError):
        return range(int(first), int(behind) if colon else int(first) + 1)
    raise argparse.ArgumentTypeError(f"'{text}' is no seed and no range FIRST:BEHIND")


def say(outcome: Outcome) -> None:
    verdict = "right" if outcome.is_right else "WRONG"
    print(
        f"{time.strftime('%H:%M:%S')} {outcome.scenario} {outcome.seed}: {verdict}; {outcome.num_faults} faults, "
        f"{outcome.num_lost} lost, {outcome.num_duplicated} twice, {outcome.num_altered} altered, "
        f"{outcome.rescored_share:.2%} scored again per fault; {outcome.seconds:.0f} s {outcome.notes or ''}",
        flush=True,
    )
    if not outcome.is_right:
        print(f"    {outcome.faults} {outcome.complaints}")
        print(f"    again: python -m tests.chaos {outcome.scenario} --seeds {outcome.seed}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
