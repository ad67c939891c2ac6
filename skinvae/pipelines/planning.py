"""plan: what `score` would do and how long it would take, before anything is done; writes nothing."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from skinvae.audit.forecast import Crew, Origin, Speed, forecast, former_speed
from skinvae.audit.plan import KindOfArchive, Output, Plan
from skinvae.config import Config
from skinvae.errors import UsageError
from skinvae.images.archives import Candidacy, candidacy
from skinvae.pipelines.cluster import describe
from skinvae.pipelines.failures import at_work
from skinvae.pipelines.nodes import Node, alive_nodes, cluster_address, num_cores, this_machine
from skinvae.pipelines.probing import DecodingProbe, probe_decoding
from skinvae.pipelines.runtime import Resources, divided, num_tasks_at_once
from skinvae.pipelines.scoring_command import ScoringCommand, open_scoring
from skinvae.pipelines.scoring_job import recipe_of
from skinvae.pipelines.scoring_stages import ScoringJob
from skinvae.pipelines.slice_job import done_by_source, make_plan, summarise
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.pipelines.tuning import UNMEASURED_SLICE_SIZE, actor_speed, choose_slice_size, precision_of_actors
from skinvae.storage.commit_protocol import SLICE_OVERHEAD_BYTES
from skinvae.storage.done import Done
from skinvae.storage.run_records import read_runs
from skinvae.storage.score_table import ScoreTable

OnStep = Callable[[str, int, int], None]
"""Called with what is being looked at, how much of it is done, and of how much."""

BYTES_PER_ROW = 80.0
"""In large files, of ISIC's images, from `python -m benchmarks.plan`; rows of a table that exists are measured."""

_MIN_ROWS = 1000
"""A table of fewer tells more of its files' frames than of its rows."""

_MEASURED_SECONDS = 4.0
"""Of scoring: longer than a job spends to choose its slices, for the night depends on it."""

_START_SECONDS = 15.0
"""Where nobody has measured it: workers that start and import PyTorch, twice, and load the model."""

_COUNTED_AT_ONCE = 10_000
"""Members between two signs of progress."""


def plan(
    archives: Sequence[str],
    *,
    model: str,
    table: str,
    config: Config,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    rate: float | None = None,
    probe: bool = True,
    on_step: OnStep = lambda *_: None,
) -> Plan:
    """What there is to do, and how long it takes on the cluster that is there, or on one of so many CPUs and GPUs.

    `rate` are images/s of one GPU, or of one CPU core where there are none. Without it the speed is that of former
    runs on the table, or with `probe` that of a few dozen images, read, decoded and scored on a worker.
    """
    command = open_scoring(archives, model=model, table=table, config=config, make_table=False)
    with contextlib.ExitStack() as session:
        return _Planning(command, probe=probe, rate=rate, on_step=on_step, session=session).plan(num_cpus, num_gpus)


@dataclass
class _Planning:
    """One plan in the making."""

    command: ScoringCommand
    probe: bool
    rate: float | None
    on_step: OnStep
    session: contextlib.ExitStack
    """Of Ray, if it is needed."""
    is_joined: bool = False
    _job: ScoringJob | None = None

    @property
    def job(self) -> ScoringJob:
        """In the precision of this machine until one of the cluster has settled it."""
        if self._job is None:
            self._job = self.command.job_from_here()
        return self._job

    def plan(self, num_cpus: int | None, num_gpus: int | None) -> Plan:
        command, config = self.command, self.command.config
        if cluster_address(config.ray):
            self._join()
        given = _given_nodes(num_cpus, num_gpus)
        nodes, resources = self._divided(given or self._nodes_here())
        crew = _crew(resources, nodes, is_local=not (given or cluster_address(config.ray)))
        done = done_by_source(self.job, command.table)
        by_kind = count_work(command.opened, done, on_step=self.on_step)
        speed, decoding = self._speed(crew, done, has_work=any(_has_work(one) for one in by_kind))
        by_kind = [_with_guess(one, decoding, command.opened, done) for one in by_kind]
        cluster = describe(given or self._nodes_here(), resources)
        return self._planned(by_kind, crew=crew, speed=speed, cluster=cluster, is_given=bool(given))

    def _planned(
        self, by_kind: list[KindOfArchive], *, crew: Crew, speed: Speed | None, cluster: str, is_given: bool
    ) -> Plan:
        command, job = self.command, self.job
        num_left = sum(one.num_images_expected for one in by_kind)
        slice_size = command.config.score.slice_size or _slice_size(speed, crew, num_left)
        work = make_plan(job, command.opened, command.table, slice_size=slice_size)
        in_streams = sum(one.num_images_in_streams or 0 for one in by_kind)
        summary = summarise(job, command.opened, command.table)
        is_known = all(one.num_images_in_streams is not None for one in by_kind if one.num_bytes_unread)
        expected = forecast(speed, crew, num_images=num_left, slice_size=slice_size) if speed and is_known else None
        num_slices = sum(-(-one.part.num_members // slice_size) for one in work.parts) + -(-in_streams // slice_size)
        commits = None
        if expected is not None:
            commits = min(num_slices, 1 + int(expected.work_seconds / command.config.score.commit_seconds)) + 1
        source_ids = {one.source.source_id for one in command.opened}
        return Plan(
            table=command.table_at.uri,
            scoring_id=job.scoring_id,
            precision=job.scoring.precision,
            num_members=summary.num_members,
            num_members_done=summary.num_already_done,
            num_stream_bytes=summary.num_stream_bytes,
            by_kind=by_kind,
            in_table=command.table.count_by_status(job.scoring_id, source_ids=source_ids) if command.table else {},
            num_slices=num_slices,
            slice_size=slice_size,
            num_slices_written=len(work.adoptable),
            num_commits=commits,
            cluster=cluster,
            is_hypothetical=is_given,
            speed=speed,
            forecast=expected,
            unknown="" if expected else self._why_unknown(crew, is_known=is_known),
            output=_output(command.table, num_left, num_slices=num_slices),
        )

    def _speed(self, crew: Crew, done: Mapping[str, Done], *, has_work: bool) -> tuple[Speed | None, DecodingProbe]:
        known = None
        if self.command.table is not None:
            known = former_speed(read_runs(self.command.table_at), crew, scoring_id=self.job.scoring_id)
        nothing = DecodingProbe(None, None)
        streams = [one for one in self.command.opened if one.num_bytes_unread(done.get(one.source.source_id, Done()))]
        must_look = known is None or any(_images_per_byte(one, done) is None for one in streams)
        probed, decoding = None, nothing
        # A cluster at rest, of a head without CPUs, has nothing to probe on.
        can_look = not self.is_joined or any(one.num_cpus for one in alive_nodes())
        if self.probe and can_look and has_work and must_look:
            probed, decoding = self._probed(done, crew)
        speed = known or probed
        if self.rate is None:
            return speed, decoding
        base = speed or Speed(Origin.GIVEN, None, None, _START_SECONDS)
        scored = self.rate * (crew.gpus_per_actor or crew.threads_per_actor)
        return replace(base, origin=Origin.GIVEN, scored_per_second=scored, together_per_second=None), decoding

    def _probed(self, done: Mapping[str, Done], crew: Crew) -> tuple[Speed, DecodingProbe]:
        command, config = self.command, self.command.config
        started = time.monotonic()
        self.on_step("probing", 0, 3)
        self._join()
        _, here = self._divided(self._nodes_here())
        session_seconds = time.monotonic() - started
        job = self._job = command.job_in(precision_of_actors(command.asked_precision, here))
        scored = None
        scoring_seconds = 0.0
        if self.rate is None and bool(here.gpus_per_actor) == bool(crew.gpus_per_actor):
            self.on_step("probing", 1, 3)
            threads = min(here.threads_per_actor, crew.threads_per_actor)
            speed = actor_speed(
                recipe_of(job, replace(here, threads_per_actor=threads), settings=config.score),
                here,
                image_size=job.image_size,
                max_seconds=config.score.max_seconds,
                measured_seconds=_MEASURED_SECONDS,
            )
            scored = speed and speed[0] * (1 if crew.gpus_per_actor else crew.threads_per_actor / threads)
            scoring_seconds = time.monotonic() - started - session_seconds - _MEASURED_SECONDS
        self.on_step("probing", 2, 3)
        decoding = probe_decoding(command.opened, done, job=job, resources=here)
        self.on_step("probing", 3, 3)
        # A job starts workers twice, too: one that measures, and the actors.
        start = session_seconds + 2 * scoring_seconds if scored else _START_SECONDS
        return Speed(Origin.PROBE, scored, decoding.images_per_second, start), decoding

    def _join(self) -> None:
        if not self.is_joined:
            self.session.enter_context(at_work(self.command.config.ray))
        self.is_joined = True

    def _nodes_here(self) -> list[Node]:
        return alive_nodes() if self.is_joined else [this_machine()]

    def _divided(self, nodes: Sequence[Node]) -> tuple[Sequence[Node], Resources]:
        config = self.command.config
        return nodes, divided(nodes, config.ray, num_actors=config.score.num_actors)

    def _why_unknown(self, crew: Crew, *, is_known: bool) -> str:
        if not is_known:
            return "how many images the tars hold is not known before some of them are read: leave --no-probe out"
        if not self.probe:
            return "no run on this table has ended that could tell the speed: leave --no-probe out, or give --rate"
        what = "GPU" if crew.gpus_per_actor else "CPU core"
        return f"the speed of scoring could not be measured here: give --rate, the images/s of one {what}"


def count_work(
    opened: Sequence[OpenedArchive], done: Mapping[str, Done], *, on_step: OnStep = lambda *_: None
) -> list[KindOfArchive]:
    """What the archives hold and what is left of it, by kind, the most archives first."""
    groups: dict[str, list[KindOfArchive]] = defaultdict(list)
    for number, one in enumerate(opened):
        on_step("counting images", number, len(opened))
        found = _counted(one, done.get(one.source.source_id, Done()))
        groups[found.kind].append(found)
    return sorted(map(_sum, groups.values()), key=lambda one: (-one.num_archives, one.kind))


def _counted(one: OpenedArchive, its: Done) -> KindOfArchive:
    num_members = one.num_members(its)
    # ZipArchive is a zip: a kind has the name of its class.
    kind = type(one.archive).__name__.removesuffix("Archive").lower()
    num_images = num_left = 0
    if one.archive.num_members is None:
        # Which of a stream's members are images, only its rows could tell.
        num_images, num_left = len(its.members), 0
    elif kind in ("zip", "folder"):
        missing = its.members.gaps(0, one.archive.num_members)
        for member in one.archive.members():
            if candidacy(member.name) is not Candidacy.SKIPPED:
                num_images += 1
                num_left += missing.intersects(member.index, member.index + 1)
    else:
        num_images = one.archive.num_members
        num_left = num_images - len(its.members)
    return KindOfArchive(
        kind=kind,
        num_archives=1,
        num_bytes=one.source.num_bytes,
        num_members=num_members or its.members.stop,
        num_images=num_images,
        num_images_left=num_left,
        num_bytes_unread=one.num_bytes_unread(its),
        num_images_in_streams=None,
    )


def _sum(group: Sequence[KindOfArchive]) -> KindOfArchive:
    return KindOfArchive(
        kind=group[0].kind,
        num_archives=len(group),
        num_bytes=sum(one.num_bytes for one in group),
        num_members=sum(one.num_members for one in group),
        num_images=sum(one.num_images for one in group),
        num_images_left=sum(one.num_images_left for one in group),
        num_bytes_unread=sum(one.num_bytes_unread for one in group),
        num_images_in_streams=None,
    )


def _has_work(one: KindOfArchive) -> bool:
    return bool(one.num_images_left or one.num_bytes_unread)


def _images_per_byte(one: OpenedArchive, done: Mapping[str, Done]) -> float | None:
    """Of what the table holds of a stream: its members, most of which are images."""
    its = done.get(one.source.source_id, Done())
    num_bytes = one.source.num_bytes - one.num_bytes_unread(its)
    return len(its.members) / num_bytes if its.members and num_bytes else None


def _with_guess(
    kind: KindOfArchive, decoding: DecodingProbe, opened: Sequence[OpenedArchive], done: Mapping[str, Done]
) -> KindOfArchive:
    if not kind.num_bytes_unread:
        return kind
    density = decoding.images_per_stream_byte
    if density is None:
        known = [found for one in opened if (found := _images_per_byte(one, done)) is not None]
        density = sum(known) / len(known) if known else None
    if density is None:
        return kind
    return replace(kind, num_images_in_streams=max(1, round(density * kind.num_bytes_unread)))


def _given_nodes(num_cpus: int | None, num_gpus: int | None) -> list[Node] | None:
    """One node stands for a cluster that is only thought of."""
    if num_cpus is None and num_gpus is None:
        return None
    if num_cpus is None:
        raise UsageError("--gpus needs --cpus: how many CPUs decode for them decides how fast they are")
    return [Node(num_cpus, num_gpus or 0)]


def _crew(resources: Resources, nodes: Sequence[Node], *, is_local: bool) -> Crew:
    return Crew(
        num_actors=resources.num_actors,
        gpus_per_actor=resources.gpus_per_actor,
        threads_per_actor=resources.threads_per_actor,
        num_tasks=num_tasks_at_once(resources, nodes, num_actors=resources.num_actors),
        num_cpus=num_cores() if is_local else sum(one.num_cpus for one in nodes),
    )


def _slice_size(speed: Speed | None, crew: Crew, num_left: int) -> int:
    if speed is None or speed.scored_per_second is None:
        return UNMEASURED_SLICE_SIZE
    return choose_slice_size(speed.scored_per_second, batch_size=1, num_members=num_left, num_actors=crew.num_actors)


def _output(table: ScoreTable | None, num_rows: int, *, num_slices: int) -> Output:
    files = [] if table is None else [one for one in table.live_files() if not one.is_slice]
    measured = sum(one.num_rows for one in files)
    is_measured = measured >= _MIN_ROWS
    bytes_per_row = sum(one.num_bytes for one in files) / measured if is_measured else BYTES_PER_ROW
    return Output(
        num_rows=num_rows,
        bytes_per_row=bytes_per_row,
        is_measured=is_measured,
        num_slice_bytes=round(num_rows * bytes_per_row) + num_slices * SLICE_OVERHEAD_BYTES,
    )
