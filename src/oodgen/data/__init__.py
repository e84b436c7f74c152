"""Data sets: the catalogue, one module for each family, preprocessing, and training batches."""
