"""Whether the identities that rows carry are those of what lies beside the table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from skinvae.audit.differences import Differences, Kind
from skinvae.audit.row_rules import CONSTANTS
from skinvae.errors import InputError
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import PixelTable, read_preparation
from skinvae.storage.slice_table import SliceTable

_CONFIG, _SPLIT = "config.json", "split.parquet"
"""What `score` copies of a bundle; storage/bundle.py, which names them too, loads torch."""


def check_identities(table: SliceTable, constants: Mapping[str, tuple[Any, ...]], differences: Differences) -> None:
    """`constants`: by scoring_id the values of the columns CONSTANTS, as far as the table has them."""
    if isinstance(table, PixelTable):
        _check_preparation(table.location, constants, differences)
        return
    for model_id in sorted({values[CONSTANTS.index("model_id")] for values in constants.values()}):
        _check_model(table.location / "_skinvae" / model_id, model_id, differences)


def _check_preparation(location: Location, preparation_ids: Iterable[str], differences: Differences) -> None:
    own = read_preparation(location).digest
    for one in sorted(set(preparation_ids) - {own}):
        differences.add(Kind.WRONG_ID, f"rows of the preparation {one} are in the prepared archive of {own}")


def _check_model(copies: Location, model_id: str, differences: Differences) -> None:
    """model_id is the digest of the config, which holds that of the split: what `evaluate` relies on."""
    try:
        config = (copies / _CONFIG).read_bytes()
        split = (copies / _SPLIT).read_bytes()
    except InputError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        differences.add(Kind.WRONG_ID, f"the copies of the model's files are not whole: {error}")
        return
    if not hashlib.sha256(config).hexdigest().startswith(model_id):
        differences.add(Kind.WRONG_ID, f"'{copies / _CONFIG}' was altered: its digest is not that of model {model_id}")
    elif json.loads(config)["files"].get(_SPLIT) != hashlib.sha256(split).hexdigest():
        differences.add(Kind.WRONG_ID, f"'{copies / _SPLIT}' was altered: its digest is not the one in {_CONFIG}")
