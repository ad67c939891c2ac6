"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Archives = Annotated[
    list[str],
    typer.Argument(
        help="Zip, tar or Parquet archives, folders or prefixes, single images, prepared archives, or manifests (.txt, "
        ".csv, .parquet) that list images: local paths or s3:// URIs, with {000..999} and * for many.",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Option(help="Model bundle that `train` wrote.", show_default=False)]
ScoresTo = Annotated[
    str, typer.Option("--table", help="Score table, a Delta table; made if it is not there.", show_default=False)
]
Out = Annotated[str, typer.Option("--out", help="Where the result goes: a path or s3:// URI.", show_default=False)]
_LABELS_OPTION = typer.Option(
    "--labels",
    help="CSV, Parquet or Delta table: ISIC's one-hot ground truth, or image_id and dx as in HAM10000.",
    show_default=False,
)
Labels = Annotated[str, _LABELS_OPTION]
OptionalLabels = Annotated[str | None, _LABELS_OPTION]
Groups = Annotated[
    str | None,
    typer.Option(
        help="CSV, Parquet or Delta table with lesion_id and image_id: photos of one lesion stay together.",
        show_default=False,
    ),
]
Metadata = Annotated[
    str | None,
    typer.Option(
        help="CSV, Parquet or Delta table with image_id and any of age, sex, localization, dx_type, as in HAM10000.",
        show_default=False,
    ),
]
Normal = Annotated[
    list[str] | None,
    typer.Option(help="Class that counts as normal; default: those the model was trained on.", show_default=False),
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", help="TOML file of settings: a path or URI.", show_default=False)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, section.key=value; may be repeated.", show_default=False),
]
AnyTable = Annotated[
    str, typer.Argument(help="Score table, or prepared archive: a path or s3:// URI.", show_default=False)
]
Place = Annotated[
    str,
    typer.Argument(
        help="Score table, prepared archive, or the --out of a training: a path or s3:// URI.", show_default=False
    ),
]
ScoringId = Annotated[
    str | None, typer.Option(help="Which scoring, where the table holds several.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all settings as TOML and stop; needs no other argument.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and stop.")]


def listed(text: str | None) -> tuple[str, ...]:
    """'a,b' as names; nothing as none."""
    return tuple(one.strip() for one in text.split(",")) if text else ()
