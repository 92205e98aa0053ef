"""From a tuned ranker to rows, intervals and predictions; may import both other packages."""
