"""Sets of examples: the catalogue, one file for each family, and the batches made from them."""
