"""Synthetic dermoscopy: pictures of seven lesion classes drawn from a seed, and archives of them in ISIC 2018's layout.

Pure: arrays, bytes and strings come back, no path or URI is opened. Same arguments, same pixels; across machines up to
the last bit of NumPy's exp and cos, and JPEG bytes up to the version of libjpeg-turbo.
"""

from skinvae.images.synthetic.archive import DEMO_COUNTS, FOLDER, SyntheticArchive, make_archive
from skinvae.images.synthetic.photo import draw_lesion

__all__ = ["DEMO_COUNTS", "FOLDER", "SyntheticArchive", "draw_lesion", "make_archive"]
