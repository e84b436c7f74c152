"""MNIST and the sets in its file format: idx files, gzipped or not, under ROOT/<Name>/raw as in torchvision."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from oodgen.data.catalog import Dataset, Read, require
from oodgen.errors import UserError

__all__ = ["decode", "emnist_letters", "fashion_mnist", "kmnist", "mnist"]

STEMS = {"train": "train", "test": "t10k"}

# SHA-256 of the unpacked idx files, since a .gz may have been recompressed. Those of KMNIST train and EMNIST are
# unknown: their checks are torchvision's MD5 of the download and the number of images.
ORIGINAL = {
    "MNIST/raw/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "MNIST/raw/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "MNIST/raw/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "MNIST/raw/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "FashionMNIST/raw/train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "KMNIST/raw/t10k-images-idx3-ubyte": "76fbd229ce87db80dd281af5e6670de4ad0e42fb30a7bd643972994c47c1f42e",
    "KMNIST/raw/t10k-labels-idx1-ubyte": "a11dc742be8e781a40a92f53d6a4957e7b7d36df2faa097659131ebfd8fd60c6",
}


def decode(root: Path, name: str) -> np.ndarray:
    r"""An idx file of bytes as an array.

    The file holds 0, 0, the type (8 for bytes), the number of dimensions, each dimension as a big-endian 32-bit
    integer, then the bytes in row-major order.

    Arguments:
        root: The data root.
        name: The file under it, without .gz; the plain file is taken if both are there.

    Raises:
        FileNotFoundError: the file is missing.
        UserError: it is damaged, or not the published file.
    """
    require(root, name)
    path = root / name if (root / name).exists() else root / f"{name}.gz"
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\x00\x00\x08":
            raise ValueError("it does not begin like an idx file of bytes")
        shape = np.frombuffer(data, ">u4", data[3], offset=4)
        array = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and fetch it again") from error
    if hashlib.sha256(data).hexdigest() != ORIGINAL.get(name, hashlib.sha256(data).hexdigest()):
        raise UserError(f"{path} is not the published file (its SHA-256 differs); delete it and fetch it again")
    return array


def _family(name: str, kind: str, sizes: dict[str, int], licence: str, source: str) -> Dataset:
    def files(split: str) -> tuple[str, str]:
        stem = f"{kind}/raw/{STEMS[split]}"
        return f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"

    def read(root: Path, split: str) -> Read:
        images, labels = files(split)
        require(root, images, labels)
        return decode(root, images)[:, None], decode(root, labels)

    def fetch(root: Path) -> None:
        import torchvision

        getattr(torchvision.datasets, kind)(root, download=True)

    raw = {split: files(split) for split in sizes}
    return Dataset(name, (1, 28, 28), sizes, licence, source, read, fetch, "as published", raw)


def mnist() -> Dataset:
    """Handwritten digits (LeCun, Cortes, Burges 1998)."""
    sizes = {"train": 60_000, "test": 10_000}
    return _family("mnist", "MNIST", sizes, "CC BY-SA 3.0", "http://yann.lecun.com/exdb/mnist/")


def fashion_mnist() -> Dataset:
    """Pictures of garments (Xiao, Rasul, Vollgraf 2017)."""
    sizes = {"train": 60_000, "test": 10_000}
    return _family("fashion_mnist", "FashionMNIST", sizes, "MIT", "https://github.com/zalandoresearch/fashion-mnist")


def kmnist() -> Dataset:
    """Cursive Japanese characters (Clanuwat et al. 2018)."""
    sizes = {"train": 60_000, "test": 10_000}
    return _family("kmnist", "KMNIST", sizes, "CC BY-SA 4.0", "http://codh.rois.ac.jp/kmnist/")


def emnist_letters() -> Dataset:
    """Handwritten letters, upright, labels 1 to 26 (Cohen et al. 2017)."""
    stems = {split: f"EMNIST/raw/emnist-letters-{split}" for split in ("train", "test")}
    raw = {split: (f"{s}-images-idx3-ubyte", f"{s}-labels-idx1-ubyte") for split, s in stems.items()}

    def read(root: Path, split: str) -> Read:
        require(root, *raw[split])
        images, labels = (decode(root, name) for name in raw[split])
        # the files hold each image column by column
        return images.transpose(0, 2, 1)[:, None], labels

    def fetch(root: Path) -> None:
        from torchvision.datasets import EMNIST

        EMNIST(root, "letters", download=True)

    return Dataset(
        "emnist_letters",
        (1, 28, 28),
        {"train": 124_800, "test": 20_800},
        "public domain (NIST)",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        read,
        fetch,
        "transposed against the files, so that letters stand upright; labels 1 to 26",
        raw,
    )
