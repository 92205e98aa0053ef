"""Few-shot adapters: classifiers fitted on a memory's embeddings; may import ``memory`` and what is below it."""
