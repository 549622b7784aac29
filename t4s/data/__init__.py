"""Data sets."""

from t4s.data.spec import Dataset, DatasetSpec, Mixture, open_dataset

__all__ = ["Dataset", "DatasetSpec", "Mixture", "open_dataset"]
