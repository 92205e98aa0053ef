"""Training of rankers, retrievers and projectors from ranking examples; may import ``data_prep``."""
