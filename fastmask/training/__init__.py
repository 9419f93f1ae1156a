"""Training: `compile`, `fit`, `evaluate` and `predict`, down to what happens between a batch and new weights."""
