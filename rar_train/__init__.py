"""From ranking examples to a tuned ranker; may import ``data_prep``."""
