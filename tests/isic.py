"""Where the real ISIC 2018 Task 3 archive lies, if it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

ISIC = Path(os.environ.get("SKINVAE_ISIC_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""ISIC2018_small.zip, ISIC2018_Task3_Training_Input.zip, their labels and lesions."""

WHY_NOT = f"{ISIC} is not there: SKINVAE_ISIC_DATA names the folder of the real ISIC 2018 archive"
