"""The mathematics of combining distributions: no models, no tokenizers, no state."""
