"""The command line: `skinvae VERB` and `python jobs/VERB.py` are this module.

A command parses, loads the settings, calls one pipeline, and prints. Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import functools
import shlex
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import skinvae
from skinvae.errors import Interrupted, SkinvaeError
from skinvae.logs import fail, tell, use_format
from skinvae.options import (
    AnyTable,
    Archives,
    AsJson,
    Assignments,
    ConfigFile,
    DryRun,
    Groups,
    Labels,
    Metadata,
    Model,
    Normal,
    OptionalLabels,
    Out,
    Place,
    PrintConfig,
    ScoresTo,
    ScoringId,
    listed,
)
from skinvae.printing import (
    demo_lines,
    export_lines,
    prepare_lines,
    print_evaluation,
    print_json,
    print_plan,
    print_report,
    print_status,
    print_training_status,
    print_usage,
    print_verification,
    score_lines,
    train_lines,
)

if TYPE_CHECKING:
    from skinvae.config import Config

app = typer.Typer(
    name="skinvae",
    help="Learns what normal dermoscopy images look like and scores whole archives for anomalies, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_EXIT_CODES = (
    "\n\nExit codes: 0 done; 1 verify found a difference, or training or the Ray job failed; 2 usage or settings; "
    "3 done, but more rejected images than allowed; 4 input missing or forbidden; 5 interrupted, run again to resume."
)


def _reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user can meet into one sentence on stderr and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        # Schedulers stop a job with SIGTERM: it ends like Ctrl-C does, committing what is done.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            command(*args, **kwargs)
            tell("done", event="end", exit_code=0)
        except KeyboardInterrupt:
            _fail(Interrupted("interrupted: run the same command again to resume"))
        except SkinvaeError as error:
            _fail(error)

    return wrapped


def _settings(config: str | None, assignments: list[str] | None) -> Config:
    """The command's settings; from now on its log has their format."""
    from skinvae.config import load_config

    settings = load_config(config, assignments or ())
    use_format(settings.log.format)
    return settings


def _fail(error: SkinvaeError) -> None:
    fail(str(error), exit_code=error.exit_code)
    raise typer.Exit(error.exit_code)


@app.command(
    epilog="Example: skinvae train ISIC2018_Task3_Training_Input.zip --labels ISIC2018_Task3_Training_GroundTruth.csv "
    "--normal NV --groups HAM10000_metadata.csv --config configs/cpu.toml --out out/model" + _EXIT_CODES
)
@_reports_errors
def train(
    archives: Archives,
    labels: Labels,
    normal: Annotated[
        list[str], typer.Option(help="Class that counts as normal; may be repeated.", show_default=False)
    ],
    out: Out,
    groups: Groups = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
    dry_run: DryRun = False,
) -> None:
    """Train the VAE on the normal images of archives and write a model bundle; a stopped run resumes."""
    settings = _settings(config, assignments)
    from skinvae.pipelines.train import train as run

    command = shlex.join(["skinvae", *sys.argv[1:]])
    summary = run(
        archives,
        labels=labels,
        normal=normal,
        out=out,
        groups=groups,
        config=settings,
        command=command,
        dry_run=dry_run,
    )
    if as_json:
        print_json(summary.as_dict())
        return
    print("\n".join(train_lines(summary, dry_run=dry_run)))


@app.command(
    epilog="Example: skinvae score s3://bucket/archive.zip --model out/model --table s3://bucket/scores. "
    "Running it again scores only what is missing; with --retry timeout,crashed also what failed for these reasons."
    + _EXIT_CODES
)
@_reports_errors
def score(
    archives: Archives,
    model: Model,
    table: ScoresTo,
    retry: Annotated[
        str | None,
        typer.Option(
            help="Score rejected images again that have these status codes, and replace their rows: timeout,crashed.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
    dry_run: DryRun = False,
) -> None:
    """Score every image of archives into a table, one row per image; running it again scores what is missing."""
    settings = _settings(config, assignments)
    from skinvae.pipelines.retrying import parse_statuses
    from skinvae.pipelines.score import check_reject_limit
    from skinvae.pipelines.score import score as run
    from skinvae.pipelines.slice_job import check_damage

    statuses = () if retry is None else parse_statuses(retry)
    summary = run(archives, model=model, table=table, config=settings, retry_statuses=statuses, dry_run=dry_run)
    print_usage(summary, done="scored")
    if as_json:
        print_json(summary.as_dict() | {"num_scored": summary.num_ok})
    else:
        print("\n".join(score_lines(summary, dry_run=dry_run)))
    check_damage(summary)
    check_reject_limit(summary, max_rejects=settings.score.max_rejects)


@app.command(
    epilog="Example: skinvae plan 's3://bucket/shard-{000..099}.tar' --model out/model --table s3://bucket/scores "
    "--cpus 64 --gpus 4. It writes nothing; without --cpus and --gpus it speaks of the cluster that is there."
    + _EXIT_CODES
)
@_reports_errors
def plan(
    archives: Archives,
    model: Model,
    table: ScoresTo,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs of a cluster that is only thought of.", show_default=False)
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="Its GPUs; needs --cpus.", show_default=False)] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-6, help="images/s that one GPU scores, or without GPUs one CPU core.", show_default=False),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe", help="Measure a few dozen images where no former run on the table tells the speed."
        ),
    ] = True,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
) -> None:
    """Say what `score` would do, how long it would take and what it would write, before it is done."""
    settings = _settings(config, assignments)
    from skinvae.pipelines.planning import plan as run
    from skinvae.step_bar import shown_steps

    with shown_steps() as on_step:
        found = run(
            archives,
            model=model,
            table=table,
            config=settings,
            num_cpus=cpus,
            num_gpus=gpus,
            rate=rate,
            probe=probe,
            on_step=on_step,
        )
    print_plan(found, as_json=as_json)


@app.command(
    epilog="Example: skinvae prepare s3://bucket/a.zip 's3://bucket/shard-{000..099}.tar' --out s3://bucket/prepared. "
    "Running it again prepares only what is missing." + _EXIT_CODES
)
@_reports_errors
def prepare(
    archives: Archives,
    out: Out,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
    dry_run: DryRun = False,
) -> None:
    """Decode and resize archives once and keep the pixels: `train` and `score` take the result as an archive."""
    settings = _settings(config, assignments)
    from skinvae.pipelines.prepare import prepare as run
    from skinvae.pipelines.slice_job import check_damage

    summary = run(archives, out=out, config=settings, dry_run=dry_run)
    print_usage(summary, done="prepared")
    if as_json:
        print_json(summary.as_dict() | {"num_prepared": summary.num_ok})
    else:
        print("\n".join(prepare_lines(summary, dry_run=dry_run)))
    check_damage(summary)


@app.command(
    epilog="Example: skinvae evaluate --table out/scores --labels ISIC2018_Task3_Training_GroundTruth.csv "
    "--metadata HAM10000_metadata.csv --protocol paper --out out/evaluation" + _EXIT_CODES
)
@_reports_errors
def evaluate(
    table: Annotated[str, typer.Option(help="Score table that `score` wrote.", show_default=False)],
    labels: Labels,
    out: Out,
    groups: Groups = None,
    normal: Normal = None,
    protocol: Annotated[
        Literal["all", "paper"],
        typer.Option(help="all images, or besides them the paper's draws of 250 normals and 100 of each disease"),
    ] = "all",
    scoring_id: ScoringId = None,
    metadata: Metadata = None,
    against: Annotated[
        str | None,
        typer.Option(help="Another score table, to compare with on the images both count.", show_default=False),
    ] = None,
    against_scoring_id: Annotated[
        str | None, typer.Option(help="Which scoring to compare with, of --against or of --table.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
) -> None:
    """Join scores with labels and say what they find, with 95 % intervals; images the model trained on never count."""
    settings = _settings(config, assignments)
    from skinvae.pipelines.evaluate import evaluate as run

    evaluation = run(
        table,
        labels=labels,
        out=out,
        groups=groups,
        normal=normal or (),
        protocol=protocol,
        scoring_id=scoring_id,
        config=settings,
        metadata=metadata,
        against=against,
        against_scoring_id=against_scoring_id,
    )
    print_evaluation(evaluation, out=out, as_json=as_json)


@app.command(
    epilog="Example: skinvae report --table out/scores --model out/model "
    "--labels ISIC2018_Task3_Training_GroundTruth.csv --groups HAM10000_metadata.csv --out report.html" + _EXIT_CODES
)
@_reports_errors
def report(
    table: Annotated[str, typer.Option(help="Score table that `score` wrote.", show_default=False)],
    model: Annotated[str, typer.Option(help="Model bundle that made the scores.", show_default=False)],
    out: Annotated[str, typer.Option(help="The HTML file: a path or s3:// URI.", show_default=False)],
    labels: OptionalLabels = None,
    groups: Groups = None,
    normal: Normal = None,
    metadata: Metadata = None,
    archives: Annotated[
        list[str] | None,
        typer.Option(
            "--archive",
            help="Where an archive lies by now, OLD=NEW: its URI or the beginning of several; may be repeated.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Show images, or no picture of a patient at all.")
    ] = True,
    pseudonymise: Annotated[
        bool,
        typer.Option("--pseudonymise", help="Random codes for images and archives; no names of members or files."),
    ] = False,
    scoring_id: ScoringId = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
) -> None:
    """Write one HTML file to show: what was scored, how well it tells diseases, and the images that stand out."""
    settings = _settings(config, assignments)
    from skinvae.pipelines.report import report as run

    summary = run(
        table,
        model=model,
        out=out,
        labels=labels,
        groups=groups,
        normal=normal or (),
        metadata=metadata,
        moves=archives or (),
        with_pictures=images,
        with_names=not pseudonymise,
        scoring_id=scoring_id,
        config=settings,
        command=shlex.join(["skinvae", *sys.argv[1:]]),
    )
    print_report(summary, as_json=as_json)


@app.command(
    epilog="Example: skinvae export out/scores --to out/plain --labels ISIC2018_Task3_Training_GroundTruth.csv "
    "--columns image_id,vae_reconst,p_value --status ok" + _EXIT_CODES
)
@_reports_errors
def export(
    table: Annotated[str, typer.Argument(help="Score table: a path or s3:// URI.", show_default=False)],
    to: Annotated[str, typer.Option(help="Empty or new folder: a path or s3:// URI.", show_default=False)],
    format_: Annotated[
        Literal["parquet", "csv"], typer.Option("--format", help="Of the files, which have about 128 MB each.")
    ] = "parquet",
    labels: OptionalLabels = None,
    normal: Annotated[
        list[str] | None,
        typer.Option(help="Class that counts as normal; default: those the model was trained on.", show_default=False),
    ] = None,
    scoring_id: ScoringId = None,
    columns: Annotated[
        str | None, typer.Option(help="Only these columns: image_id,vae_reconst.", show_default=False)
    ] = None,
    statuses: Annotated[
        str | None, typer.Option("--status", help="Only rows with these status codes: ok.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
) -> None:
    """Write one scoring of a table as plain Parquet or CSV, for those without Delta; with labels, joined with them."""
    settings = _settings(config, assignments)
    from skinvae.pipelines.export import Wanted
    from skinvae.pipelines.export import export as run
    from skinvae.step_bar import shown_steps

    with shown_steps() as on_step:
        summary = run(
            table,
            to=to,
            wanted=Wanted(scoring_id, listed(columns), listed(statuses)),
            format_=format_,
            labels=labels,
            normal=normal or (),
            storage=settings.storage,
            on_step=on_step,
        )
    if as_json:
        print_json(summary.as_dict())
        return
    print("\n".join(export_lines(summary)))


@app.command(
    epilog="Example: skinvae status s3://bucket/scores. Ask it while a job runs, after it ended or was killed, from "
    "anywhere that can read the table." + _EXIT_CODES
)
@_reports_errors
def status(place: Place, scoring_id: ScoringId = None, as_json: AsJson = False) -> None:
    """Say how far the jobs on a table, or a training run, are, how fast, how long still, and whether a driver lives."""
    from skinvae.audit.status import read_status
    from skinvae.audit.training import read_training
    from skinvae.storage.filesystem import Location

    location = Location.parse(place)
    training = read_training(location)
    if training is not None:
        print_training_status(training, as_json=as_json)
    else:
        print_status(read_status(location, scoring_id=scoring_id), as_json=as_json)


@app.command(
    epilog="Example: skinvae verify s3://bucket/scores. While a job runs it checks what is committed, and counts what "
    "is still to be done as a difference." + _EXIT_CODES
)
@_reports_errors
def verify(
    table: AnyTable,
    archives: Annotated[
        bool, typer.Option("--archives/--no-archives", help="Count the images of the archives again, too.")
    ] = True,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
) -> None:
    """Check that every image of the archives has exactly one row, and every row is as it was written."""
    settings = _settings(config, assignments)
    from skinvae.audit.verification import require_right, verify_table
    from skinvae.step_bar import shown_steps
    from skinvae.storage.filesystem import Location

    with shown_steps() as on_step:
        found = verify_table(Location.parse(table), settings=settings.storage, with_archives=archives, on_step=on_step)
    print_verification(found, as_json=as_json)
    require_right(found)


@app.command(epilog="Example: skinvae demo --out out/demo" + _EXIT_CODES)
@_reports_errors
def demo(
    out: Annotated[str, typer.Option(help="Folder for everything the demo makes.")] = "out/demo",
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic images.")] = 0,
    assignments: Assignments = None,
    as_json: AsJson = False,
    _print_config: PrintConfig = False,
) -> None:
    """Make a small synthetic archive, then train, score, evaluate and report on it: one machine, no cloud."""
    from skinvae.pipelines.demo import demo as run
    from skinvae.pipelines.demo import demo_config

    settings = demo_config(assignments or [])
    use_format(settings.log.format)
    result = run(out, seed=seed, config=settings)
    print_usage(result.scored, done="scored")
    if not as_json:
        print("\n".join(score_lines(result.scored, dry_run=False)))
    print_evaluation(result.evaluation, out=f"{out}/evaluation", as_json=as_json)
    if not as_json:
        print("\n".join(demo_lines(out)))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(skinvae.__version__)
        raise typer.Exit


@app.command(hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@_reports_errors
def print_config(
    verb: Literal["train", "plan", "score", "prepare", "evaluate", "report", "export", "verify", "demo"],
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """What `skinvae VERB --print-config` runs, whatever else is on its command line."""
    from skinvae.config import load_config, render_toml

    if verb == "demo":
        from skinvae.pipelines.demo import demo_config

        print(render_toml(demo_config(assignments or [])))
    else:
        print(render_toml(load_config(config, assignments or ())))


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if "--print-config" in arguments:
        # A verb asks for its archives and the like before it looks at any option; its settings need none of them.
        arguments = ["print-config", *(one for one in arguments if one != "--print-config")]
    app(arguments)


def run_verb(verb: str) -> None:
    """Entry point of jobs/VERB.py: the same command, its verb fixed by the file."""
    sys.argv.insert(1, verb)
    main()
