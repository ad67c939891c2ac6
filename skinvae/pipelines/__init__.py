"""train, score, evaluate: the only folder that imports Ray."""
