"""demo: a synthetic archive, then train, score, evaluate and report on it: all on one machine, with no cloud."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from skinvae.config import Config, build_config, parse_toml
from skinvae.errors import UsageError
from skinvae.images.synthetic import DEMO_COUNTS, make_archive
from skinvae.logs import say
from skinvae.pipelines.evaluate import evaluate
from skinvae.pipelines.report import ReportSummary, report
from skinvae.pipelines.runtime import ray_session
from skinvae.pipelines.score import score
from skinvae.pipelines.slice_job import JobSummary
from skinvae.pipelines.train import TrainSummary, train
from skinvae.report.evaluation import Evaluation
from skinvae.storage.filesystem import Location

ARCHIVE, LABELS, GROUPS = "archive/images.zip", "archive/GroundTruth.csv", "archive/metadata.csv"
SEED = "archive/seed.txt"


@dataclass(frozen=True)
class DemoResult:
    """What each verb of the demo returned."""

    trained: TrainSummary
    scored: JobSummary
    evaluation: Evaluation
    report: ReportSummary


def demo_config(assignments: list[str]) -> Config:
    """The settings of demo.toml, which is part of the package, under environment and assignments."""
    text = resources.files("skinvae").joinpath("demo.toml").read_text()
    return build_config(parse_toml(text, origin="demo.toml"), assignments)


def demo(out: str, *, seed: int, config: Config) -> DemoResult:
    """Make the archive below `out` and run the verbs on it; what a run before has done is not done again."""
    folder = Location.parse(out)
    if not folder.is_local:
        raise UsageError(f"--out {out}: the demo writes to a local folder")
    archive, labels, groups = (str(folder / name) for name in (ARCHIVE, LABELS, GROUPS))
    _make_archive(folder, seed=seed)
    with ray_session(config.ray):
        say("\n== train: learn what a nevus looks like")
        trained = train(
            [archive],
            labels=labels,
            normal=["NV"],
            out=str(folder / "model"),
            groups=groups,
            config=config,
            command=f"skinvae demo --out {out} --seed {seed}",
        )
        say("\n== score: how anomalous is every image of the archive?")
        scored = score([archive], model=str(folder / "model"), table=str(folder / "scores"), config=config)
    say("\n== evaluate: do abnormal images score higher?")
    evaluation = evaluate(
        str(folder / "scores"),
        labels=labels,
        out=str(folder / "evaluation"),
        groups=groups,
        normal=(),
        protocol="all",
        scoring_id=None,
        config=config,
        metadata=groups,
    )
    say("\n== report: a page to show")
    reported = report(
        str(folder / "scores"),
        model=str(folder / "model"),
        out=str(folder / "report.html"),
        labels=labels,
        groups=groups,
        normal=(),
        metadata=groups,
        moves=(),
        with_pictures=True,
        with_names=True,
        scoring_id=None,
        config=config,
        command=f"skinvae demo --out {out} --seed {seed}",
    )
    return DemoResult(trained, scored, evaluation, reported)


def _make_archive(folder: Location, *, seed: int) -> None:
    if (folder / SEED).exists():
        drawn_with = int((folder / SEED).read_bytes())
        if drawn_with != seed:
            raise UsageError(f"'{folder}' holds the demo of seed {drawn_with}: choose another --out or delete it")
        return
    say(f"== drawing {sum(DEMO_COUNTS.values())} synthetic dermoscopy images of {len(DEMO_COUNTS)} classes")
    archive = make_archive(DEMO_COUNTS, seed=seed)
    (folder / ARCHIVE).write_bytes(archive.zip_bytes)
    (folder / LABELS).write_bytes(archive.labels_csv.encode())
    (folder / GROUPS).write_bytes(archive.metadata_csv.encode())
    # Last: its presence says that the archive is complete.
    (folder / SEED).write_bytes(b"%d\n" % seed)
