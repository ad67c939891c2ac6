"""What grows with the number of slices: a driver measured alone, a whole job's requests counted, and the arithmetic
from both to 100 million images on 64 GPUs, which is docs/scale.md."""
