"""The join of `metrics/join.py` for tables that memory cannot hold: the same rules as SQL, on local disk.

Tables of the scratch database: scored (columns of the score table), labels (image_id, label), lesions (image_id,
lesion), split (SPLIT_SCHEMA), kinds (what `parse_metadata` says); then matched, kept and evaluated, made here.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from skinvae.errors import LabelsError
from skinvae.metrics.highlights import NUM_HIGHLIGHTS, NUM_P_BINS, Highlights, Missed
from skinvae.metrics.join import (
    NUM_EXAMPLES,
    SAME_SCORE_TOLERANCE,
    SAME_SHORT_SCORE_TOLERANCE,
    SIDES,
    LabelJoin,
    check_normal,
    order_classes,
)
from skinvae.metrics.ordered import NUM_GROUPS, Chunk
from skinvae.records import SCORES, SPLIT_SCHEMA
from skinvae.storage.scratch import Scratch

CHUNK_SIZE = 200_000
"""Images of one pass in memory at once; it needs some hundred bytes for each."""
SAMPLE_SIZE = 20_000
"""Images of each class that are drawn into figures."""

_SCORES = ", ".join(SCORES)
_LABELS = pa.schema([("image_id", pa.string()), ("label", pa.string())])
_LESIONS = pa.schema([("image_id", pa.string()), ("lesion", pa.string())])
_EVALUATED = pa.schema(
    [(name, pa.string()) for name in ("image_id", "label", "group")]
    + [(name, pa.float64()) for name in (*SCORES, "p_value")]
)


def load_labels(scratch: Scratch, frames: Iterable[pd.DataFrame], *, origin: str) -> None:
    """Fill labels of `parse_labels`' frames. Raises LabelsError for an image with two of them."""
    _fill_once(scratch, "labels", _LABELS, frames, value="label", origin=origin)


def load_lesions(scratch: Scratch, series: Iterable[pd.Series[str]], *, split: pd.DataFrame, origin: str) -> None:
    """Fill lesions of `parse_groups`' series, and of the split for images that these lack; and the split."""
    frames = (one.rename("lesion").rename_axis("image_id").reset_index() for one in series)
    _fill_once(scratch, "lesions", _LESIONS, frames, value="lesion", origin=origin)
    scratch.fill("split", SPLIT_SCHEMA, [pa.Table.from_pandas(split, schema=SPLIT_SCHEMA, preserve_index=False)])
    scratch.run(
        'INSERT INTO lesions SELECT image_id, any_value("group") FROM split ANTI JOIN lesions USING (image_id) '
        'WHERE "group" IS NOT NULL GROUP BY image_id'
    )


def load_kinds(scratch: Scratch, frames: Iterable[pd.DataFrame], *, origin: str) -> list[str]:
    """Fill kinds of `parse_metadata`'s frames; its columns but the image."""
    frames = iter(frames)
    first = next(frames)
    columns = [str(name) for name in first.columns]
    schema = pa.schema([(name, pa.string()) for name in ("image_id", *columns)])
    scratch.fill(
        "kinds_read", schema, (_as_table(one.reset_index(), schema) for one in itertools.chain([first], frames))
    )
    scratch.run("CREATE TABLE kinds AS SELECT DISTINCT * FROM kinds_read; DROP TABLE kinds_read")
    _refuse_repeated(scratch, "kinds", what="is described in several ways", origin=origin)
    return columns


def join_scored(scratch: Scratch, *, normal: Collection[str], kinds: Sequence[str]) -> LabelJoin:
    """Make the table evaluated, one row an image that counts, and the account of all others.

    Raises LabelsError and ValueError as `join_labels` does. `LabelJoin.evaluated` is a sample.
    """
    check_normal(normal, classes=_names(scratch, "SELECT DISTINCT label FROM labels"))
    _match(scratch)
    num_repeated, num_ambiguous, num_labels_repeated = _keep_one_row_per_image(scratch)
    num_trained, num_trained_lesion = _leave_out_trained(scratch, kinds=kinds)
    counts = {str(name): int(num) for name, num in scratch.rows("SELECT label, count(*) FROM evaluated GROUP BY label")}
    listed = _listed(normal)
    return LabelJoin(
        evaluated=_sample(scratch, counts),
        num_evaluated_by_class=counts,
        normal=order_classes(normal),
        num_rows=scratch.value("SELECT count(*) FROM scored"),
        num_rejected=dict(
            scratch.rows("SELECT status, count(*) FROM scored WHERE status != 'ok' GROUP BY status ORDER BY status")
        ),
        num_unmatched=scratch.value(f"SELECT count(*) {_UNMATCHED}"),
        unmatched_examples=_examples(scratch, _UNMATCHED),
        num_labels=scratch.value("SELECT count(*) FROM labels"),
        num_labels_unmatched=scratch.value(f"SELECT count(*) {_LABELS_UNMATCHED}"),
        labels_unmatched_examples=_examples(scratch, _LABELS_UNMATCHED),
        num_labels_repeated=num_labels_repeated,
        num_repeated=num_repeated,
        num_ambiguous=num_ambiguous,
        num_trained=num_trained,
        num_trained_lesion=num_trained_lesion,
        num_validation_normals=scratch.value(
            f"SELECT count(*) FROM evaluated WHERE label IN ({listed}) AND is_held_out"
        ),
        groups_known=scratch.value("SELECT count(*) FROM lesions") > 0,
        num_without_lesion={
            side: scratch.value(f"SELECT count(*) FROM evaluated WHERE lesion IS NULL AND label {which} ({listed})")
            for side, which in zip(SIDES, ("IN", "NOT IN"), strict=True)
        },
        absent_classes=order_classes(_names(scratch, "SELECT DISTINCT label FROM labels") - set(counts)),
    )


def number_classes(scratch: Scratch, *, normal: Collection[str], classes: Sequence[str]) -> None:
    """Make the table codes: 0 for the normals' labels, 1 and on for `classes`."""
    codes = [(name, 0) for name in normal] + [(name, code) for code, name in enumerate(classes, start=1)]
    table = pa.table({"label": [name for name, _ in codes], "code": pa.array([code for _, code in codes], pa.int8())})
    scratch.fill("codes", table.schema, [table])


def effective_sizes(scratch: Scratch) -> dict[int, tuple[float, float]]:
    """By code: images that would tell as much, were the photos of a lesion all alike, and distinct lesions."""
    found = scratch.rows(_sizes_by("code", where="true"))
    return {int(code): (float(effective), float(lesions)) for code, _, effective, lesions in found}


def batch_sizes(scratch: Scratch, *, num_classes: int) -> list[tuple[int, float]]:
    """Of IN_BATCH: images and what they are worth, of the normals, of each class, of all abnormal ones pooled."""
    by_code = {int(code): (int(num), float(worth)) for code, num, worth, _ in scratch.rows(_sizes_by("code"))}
    pooled = {bool(side): (int(num), float(worth)) for side, num, worth, _ in scratch.rows(_sizes_by("code > 0"))}
    return [*(by_code.get(code, (0, 0.0)) for code in range(num_classes + 1)), pooled.get(True, (0, 0.0))]


def num_made_p_values(scratch: Scratch) -> int:
    """Evaluated images that the p-values were made from."""
    return scratch.value("SELECT count(*) FROM evaluated WHERE is_held_out")


def ordered_chunks(scratch: Scratch, column: str, *, where: str = "true") -> Iterator[Chunk]:
    """A score or p-value in ascending order, with codes and groups; sorted on disk where memory does not suffice."""
    query = (
        f"SELECT {column}, code, batch FROM evaluated JOIN codes USING (label) "
        f"WHERE {column} IS NOT NULL AND {where} ORDER BY {column}"
    )
    for batch in scratch.batches(query, num_rows=CHUNK_SIZE):
        if batch.num_rows:
            values, codes, groups = (batch.column(place).to_numpy(zero_copy_only=False) for place in range(3))
            yield values, codes, groups


IN_BATCH = "p_value IS NOT NULL AND NOT is_held_out"
"""The images of `Detection`: those that the p-values were made from say nothing about others."""


def _sizes_by(side: str, *, where: str = IN_BATCH) -> str:
    """As `effective_size`: side, images, what they are worth, lesions."""
    return (
        "SELECT side, sum(num), sum(num) * sum(num) / sum(num * num), count(*) FROM ("
        f"SELECT {side} AS side, count(*)::DOUBLE AS num FROM evaluated JOIN codes USING (label) WHERE {where} "
        "GROUP BY 1, coalesce(lesion, image_id)) GROUP BY side"
    )


def read_highlights(scratch: Scratch, join: LabelJoin, *, classes: Sequence[str], score: str) -> Highlights:
    """What `find_highlights` finds, of all images; `classes` as they were numbered."""
    coded = "FROM evaluated JOIN codes USING (label)"

    def first(code: int, order: str) -> tuple[str, ...]:
        found = scratch.rows(
            f"SELECT image_id {coded} WHERE code = {code} ORDER BY {score} {order}, image_id {order} "
            f"LIMIT {NUM_HIGHLIGHTS}"
        )
        return tuple(str(image_id) for (image_id,) in found)

    def missed(code: int, name: str) -> Missed:
        lowest = f"(SELECT min({score}) {coded} WHERE code = {code})"
        num_above = scratch.value(f"SELECT count(*) {coded} WHERE code = 0 AND {score} >= {lowest}")
        return Missed(name, join.num_evaluated_by_class[name], first(code, "ASC"), num_above)

    p_values = np.zeros((2, NUM_P_BINS), np.int64)
    bar = f"least(floor(p_value * {NUM_P_BINS}), {NUM_P_BINS - 1})::INTEGER"
    for is_abnormal, place, num in scratch.rows(
        f"SELECT code > 0, {bar}, count(*) {coded} WHERE p_value IS NOT NULL GROUP BY ALL"
    ):
        p_values[int(is_abnormal), place] += num
    return Highlights(
        normal=join.normal,
        num_normal=join.num_normal,
        missed=tuple(missed(code, name) for code, name in enumerate(classes, start=1)),
        false_alarms=first(0, "DESC"),
        normal_p_values=p_values[0],
        abnormal_p_values=p_values[1],
    )


_UNMATCHED = "FROM scored ANTI JOIN labels USING (image_id) WHERE status = 'ok'"
_LABELS_UNMATCHED = "FROM labels ANTI JOIN scored USING (image_id)"


def _match(scratch: Scratch) -> None:
    finite = " AND ".join(f"coalesce(isfinite({name}), false)" for name in SCORES)
    if scratch.value(f"SELECT count(*) FROM scored WHERE status = 'ok' AND NOT ({finite})"):
        raise ValueError("a row with status ok holds a score that is null or not finite")
    scratch.run(
        "CREATE TABLE matched AS SELECT image_id, label, precision IN ('bfloat16', 'tf32') AS is_short, "
        f"{_SCORES}, p_value FROM scored JOIN labels USING (image_id) WHERE status = 'ok'"
    )


def _keep_one_row_per_image(scratch: Scratch) -> tuple[int, int, int]:
    """Make the table kept; the rows left out as repeated and as ambiguous, and the images that had several."""
    tolerance = f"CASE WHEN bool_or(is_short) THEN {SAME_SHORT_SCORE_TOLERANCE} ELSE {SAME_SCORE_TOLERANCE} END"
    agrees = " AND ".join(
        f"max({name}) - min({name}) <= {tolerance} * greatest(1.0, abs(min({name})), abs(max({name})))"
        for name in SCORES
    )
    packed = ", ".join(f"{name} := {name}" for name in (*SCORES, "p_value"))
    scratch.run("CREATE TABLE several AS SELECT image_id FROM matched GROUP BY image_id HAVING count(*) > 1")
    scratch.run(
        f"CREATE TABLE judged AS SELECT image_id, any_value(label) AS label, count(*) AS num, {agrees} AS agrees, "
        f"min(struct_pack({packed})) AS row FROM matched SEMI JOIN several USING (image_id) GROUP BY image_id"
    )
    columns = f"image_id, label, {_SCORES}, p_value"
    unpacked = ", ".join(f"row.{name}" for name in (*SCORES, "p_value"))
    scratch.run(
        f"CREATE TABLE kept AS SELECT {columns} FROM matched ANTI JOIN several USING (image_id) "
        f"UNION ALL SELECT image_id, label, {unpacked} FROM judged WHERE agrees"
    )
    num_repeated = scratch.value("SELECT coalesce(sum(num - 1), 0) FROM judged WHERE agrees")
    num_ambiguous = scratch.value("SELECT coalesce(sum(num), 0) FROM judged WHERE NOT agrees")
    num_labels_repeated = scratch.value("SELECT count(*) FROM judged")
    scratch.run("DROP TABLE matched; DROP TABLE several; DROP TABLE judged")
    return num_repeated, num_ambiguous, num_labels_repeated


def _leave_out_trained(scratch: Scratch, *, kinds: Sequence[str]) -> tuple[int, int]:
    """Make the table evaluated; the rows left out for the image, and for another photo of its lesion."""
    scratch.run(
        "CREATE TABLE trained AS SELECT DISTINCT image_id FROM split WHERE split = 'train'; "
        "CREATE TABLE trained_lesions AS SELECT \"group\" AS lesion FROM split WHERE split = 'train' "
        'AND "group" IS NOT NULL UNION SELECT lesion FROM lesions SEMI JOIN trained USING (image_id)'
    )
    of_kind = "".join(f", coalesce({name}, 'unknown') AS {name}" for name in kinds)
    join_kinds = "LEFT JOIN kinds USING (image_id)" if kinds else ""
    scratch.run(
        f"CREATE TABLE judged AS SELECT kept.*, lesion, image_id IN (SELECT image_id FROM trained) AS was_trained, "
        "image_id IN (SELECT image_id FROM split WHERE split = 'validation') AS is_held_out, "
        "coalesce(lesion IN (SELECT lesion FROM trained_lesions), false) AS shares_lesion, "
        f"(hash(coalesce(lesion, image_id)) % {NUM_GROUPS})::SMALLINT AS batch{of_kind} "
        f"FROM kept LEFT JOIN lesions USING (image_id) {join_kinds}"
    )
    scratch.run("DROP TABLE kept")
    scratch.run("CREATE VIEW evaluated AS SELECT * FROM judged WHERE NOT was_trained AND NOT shares_lesion")
    return (
        scratch.value("SELECT count(*) FROM judged WHERE was_trained"),
        scratch.value("SELECT count(*) FROM judged WHERE shares_lesion AND NOT was_trained"),
    )


def _sample(scratch: Scratch, counts: dict[str, int]) -> pd.DataFrame:
    """About SAMPLE_SIZE images of each class, by a hash of their name; all where there are no more."""
    parts = [
        f"(label = {quoted(name)} AND hash(image_id || ' sampled') % {max(1, num)} < {SAMPLE_SIZE})"
        for name, num in counts.items()
    ]
    numbers = ", ".join(f"{name}::DOUBLE AS {name}" for name in (*SCORES, "p_value"))
    query = (
        f'SELECT image_id, label, lesion AS "group", {numbers} FROM evaluated '
        f"WHERE {' OR '.join(parts) or 'false'} ORDER BY image_id"
    )
    batches = list(scratch.batches(query, num_rows=CHUNK_SIZE))
    # Of no image at all there is no batch that could tell the columns.
    frame: pd.DataFrame = pa.Table.from_batches(batches, _EVALUATED).to_pandas()
    return frame


def _fill_once(
    scratch: Scratch, name: str, schema: pa.Schema, frames: Iterable[pd.DataFrame], *, value: str, origin: str
) -> None:
    scratch.fill(f"{name}_read", schema, (_as_table(one, schema) for one in frames))
    scratch.run(f"CREATE TABLE {name} AS SELECT DISTINCT image_id, {value} FROM {name}_read; DROP TABLE {name}_read")
    _refuse_repeated(scratch, name, what=f"has several {value}s", origin=origin)


def _refuse_repeated(scratch: Scratch, name: str, *, what: str, origin: str) -> None:
    query = f"SELECT image_id FROM {name} GROUP BY image_id HAVING count(*) > 1 ORDER BY image_id LIMIT 1"
    for (image_id,) in scratch.rows(query):
        raise LabelsError(f"{origin}: the image {image_id} {what}; keep one row for it")


def _as_table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False)


def _examples(scratch: Scratch, source: str) -> tuple[str, ...]:
    found = scratch.rows(f"SELECT DISTINCT image_id {source} ORDER BY image_id LIMIT {NUM_EXAMPLES}")
    return tuple(str(image_id) for (image_id,) in found)


def _names(scratch: Scratch, query: str) -> set[str]:
    return {str(name) for (name,) in scratch.rows(query)}


def _listed(names: Collection[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def quoted(text: str) -> str:
    """As SQL writes text."""
    return "'" + text.replace("'", "''") + "'"
