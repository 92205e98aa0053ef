"""A tuned ranker as a merged model, an adapter and a model card; may import engine and models."""
