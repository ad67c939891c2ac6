"""Labels and lesion tables as data frames, from wherever they lie."""

from __future__ import annotations

import io

import pandas as pd

from skinvae.errors import LabelsError
from skinvae.storage.filesystem import Location


def read_csv(location: Location) -> pd.DataFrame:
    """A CSV file with a header line; ids stay as they are written. Raises LabelsError if it is none."""
    data = location.read_bytes()
    try:
        # Ids may look like numbers; only true numbers, as in one-hot columns, become ones.
        return pd.read_csv(io.BytesIO(data), dtype=dict.fromkeys(("image", "image_id", "lesion_id"), str))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise LabelsError(f"'{location}' is no CSV file with a header line: {error}") from error
