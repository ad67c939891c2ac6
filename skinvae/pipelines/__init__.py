"""train, score, evaluate: the only folder that imports Ray."""

import os

# A thread that outlives the job's Ray must not start another one by asking it something. Read when Ray is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
