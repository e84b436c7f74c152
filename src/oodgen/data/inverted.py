r"""Inverted images: any set of images with x replaced by 255 - x."""

from pathlib import Path

from oodgen.data.catalog import Dataset, Read, find

__all__ = ["inverted"]


def inverted(dataset: Dataset) -> Dataset:
    """The inverted images of another set, made from its prepared or raw files.

    Arguments:
        dataset: The set of uint8 images to invert.
    """

    def read(root: Path, split: str) -> Read:
        found = find(dataset, split, root)
        return 255 - found.x, found.y

    return Dataset(
        f"{dataset.name}_inverted",
        dataset.shape,
        dataset.sizes,
        dataset.licence,
        dataset.source,
        read,
        dataset.fetch,
        f"255 - x of {dataset.name}: {dataset.about}",
        of=dataset,
    )
