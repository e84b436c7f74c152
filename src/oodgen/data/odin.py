"""LSUN and iSUN as folders of small PNG images, which many papers on detectors take from ODIN (Liang et al. 2018)."""

import tarfile
from pathlib import Path

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.folder import images
from oodgen.data.images import decode_files

__all__ = ["isun", "lsun_crop", "lsun_resize"]

SHAPE = (3, 32, 32)
RESIZED = "resized without antialiasing (Tack et al. 2020, CSI), whose traces alone may tell it from other sets"
HOST = "https://www.dropbox.com/s/raw/"


def _dataset(name: str, folder: str, archive: str, md5: str, size: int, about: str, border: int = 0) -> Dataset:
    def read(root: Path, split: str) -> Read:
        require(root, folder)
        channels, height, width = SHAPE
        whole = (channels, height + 2 * border, width + 2 * border)
        return decode_files(images(root / folder), whole)[..., border:, border:][..., :height, :width], None

    def fetch(root: Path) -> None:
        from torchvision.datasets.utils import download_url

        if not (root / folder).exists():
            packed = Path(archive).name
            download_url(f"{HOST}{archive}", root, packed, md5)
            with tarfile.open(root / packed) as tar:
                tar.extractall(root, filter="data")

    source = "https://github.com/facebookresearch/odin"
    how = f"{about}; by hand: unpack {Path(archive).name} of the source into ROOT"
    return Dataset(name, SHAPE, {"test": size}, "not stated", source, read, fetch, how, {"test": (folder,)})


def lsun_crop() -> Dataset:
    """LSUN (scenes; Yu et al. 2015), random crops of the test images; no labels."""
    archive, md5 = "fhtsw1m3qxlwj6h/LSUN.tar.gz", "458a0a0ab8e5f1cb4516d7400568e460"
    return _dataset("lsun_crop", "LSUN/test", archive, md5, 10_000, "the centre of crops of 36x36", border=2)


def lsun_resize() -> Dataset:
    """LSUN (scenes; Yu et al. 2015), test images resized to 32 pixels; no labels."""
    archive, md5 = "moqh2wh8696c3yl/LSUN_resize.tar.gz", "278b7b31c8cb7e804a1465a8ce03a2dc"
    return _dataset("lsun_resize", "LSUN_resize/LSUN_resize", archive, md5, 10_000, RESIZED)


def isun() -> Dataset:
    """iSUN (scenes; Xu et al. 2015), resized to 32 pixels; no labels."""
    archive, md5 = "ssz7qxfqae0cca5/iSUN.tar.gz", "be77b0f2c26fda898afac5f99645ee70"
    return _dataset("isun", "iSUN/iSUN_patches", archive, md5, 8_925, RESIZED)
