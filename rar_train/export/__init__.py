"""Export of a tuned ranker as a merged model or an adapter, with a model card; may import engine and models."""
