"""Functions on embeddings. Knows no data and no model."""
