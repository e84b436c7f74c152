"""Each reader against tiny files in the true format of its set, written here."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodgen.data import imagenet32 as imagenet32_module
from oodgen.data import mnist as mnist_module
from oodgen.data import notmnist as notmnist_module
from oodgen.data import smallnorb as smallnorb_module
from oodgen.data.catalog import Dataset, load
from oodgen.data.celeba import celeba
from oodgen.data.cifar import cifar10, cifar100
from oodgen.data.flowers import flowers102
from oodgen.data.gtsrb import gtsrb
from oodgen.data.imagenet32 import imagenet32
from oodgen.data.inverted import inverted
from oodgen.data.lfw import lfw
from oodgen.data.mnist import emnist_letters, fashion_mnist, kmnist, mnist
from oodgen.data.notmnist import notmnist
from oodgen.data.odin import isun, lsun_crop, lsun_resize
from oodgen.data.omniglot import omniglot
from oodgen.data.places import places365
from oodgen.data.smallnorb import smallnorb
from oodgen.data.svhn import svhn
from oodgen.data.textures import textures
from oodgen.errors import UserError

RNG = np.random.default_rng(0)
RED = np.zeros((32, 32, 3), np.uint8)
RED[..., 0] = 255


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def picture(array: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def trust(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Let torchvision take tiny files for the published ones."""
    real = pytest.importorskip("torchvision.datasets.utils").check_integrity
    monkeypatch.setattr(f"{module}.check_integrity", lambda path, md5=None: real(path))


def quadrants(side: int) -> np.ndarray:
    """Top left red, top right green, bottom left blue, bottom right white."""
    array = np.zeros((side, side, 3), np.uint8)
    half = side // 2
    array[:half, :half, 0] = array[:half, half:, 1] = array[half:, :half, 2] = 255
    array[half:, half:] = 255
    return array


def assert_quadrants(x: np.ndarray, tolerance: int = 30) -> None:
    """The colours and places survived, to within what JPEG and resizing cost away from the edges."""
    wanted = {(6, 6): (255, 0, 0), (6, 25): (0, 255, 0), (25, 6): (0, 0, 255), (25, 25): (255, 255, 255)}
    for (row, column), colour in wanted.items():
        np.testing.assert_allclose(x[:, row, column].astype(int), colour, atol=tolerance)


@pytest.mark.parametrize(("make", "folder"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST"), (kmnist, "KMNIST")])
@pytest.mark.parametrize("packed", [False, True])
def test_idx(tmp_path, monkeypatch, make, folder, packed):
    monkeypatch.setattr(mnist_module, "ORIGINAL", {})
    x, y = RNG.integers(0, 256, (3, 28, 28), np.uint8), np.array([3, 1, 2], np.uint8)
    for part, array in (("images-idx3", x), ("labels-idx1", y)):
        data = idx(array)
        name = f"{folder}/raw/t10k-{part}-ubyte"
        write(tmp_path / (name + ".gz" * packed), gzip.compress(data) if packed else data)
    found = load(replace(make(), sizes={"test": 3}), "test", tmp_path)
    np.testing.assert_array_equal(found.x[:, 0], x)
    np.testing.assert_array_equal(found.y, y)


def test_emnist_stands_upright(tmp_path):
    letter = np.zeros((28, 28), np.uint8)
    letter[2, 5:20] = 9  # a horizontal bar near the top
    for part, array in (("images-idx3", letter.T[None].copy()), ("labels-idx1", np.array([26], np.uint8))):
        write(tmp_path / f"EMNIST/raw/emnist-letters-test-{part}-ubyte.gz", gzip.compress(idx(array)))
    x, y = emnist_letters().read(tmp_path, "test")
    np.testing.assert_array_equal(x[0, 0], letter)
    assert y.tolist() == [26]


@pytest.mark.parametrize(
    "data", [b"", b"\x00\x00\x08\x03", idx(np.zeros((2, 28, 28), np.uint8))[:-1], b"\x00\x00\x0d\x01" * 9]
)
def test_damaged_idx(tmp_path, data):
    write(tmp_path / "KMNIST/raw/train-images-idx3-ubyte", data)
    with pytest.raises(UserError, match="damaged"):
        mnist_module.decode(tmp_path, "KMNIST/raw/train-images-idx3-ubyte")


def test_damaged_gzip(tmp_path):
    path = write(tmp_path / "KMNIST/raw/train-images-idx3-ubyte.gz", gzip.compress(idx(np.ones(5, np.uint8))))
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(UserError, match="damaged"):
        mnist_module.decode(tmp_path, "KMNIST/raw/train-images-idx3-ubyte")


def test_another_set_under_the_right_name(tmp_path):
    for part, array in (("images-idx3", np.zeros((10, 28, 28), np.uint8)), ("labels-idx1", np.zeros(10, np.uint8))):
        write(tmp_path / f"MNIST/raw/t10k-{part}-ubyte", idx(array))
    with pytest.raises(UserError, match="not the published file"):
        load(mnist(), "test", tmp_path)


def test_omniglot(tmp_path, monkeypatch):
    trust(monkeypatch, "torchvision.datasets.utils")
    strokes = np.full((105, 105), True)
    strokes[:52, :52] = False  # ink in the top left quarter
    archive = tmp_path / "omniglot-py/images_evaluation.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("images_evaluation/B/character01/0002_01.png", picture(~strokes, "PNG"))
        file.writestr("images_evaluation/A/character01/0001_02.png", picture(strokes, "PNG"))
        file.writestr("images_evaluation/A/character01/0001_01.png", picture(strokes, "PNG"))
    tiny = replace(omniglot(), sizes={"test": 3})
    found = load(tiny, "test", tmp_path)
    assert found.y.tolist() == [0, 0, 1]
    x = found.x[:, 0]
    assert (x[0, :13, :13] == 0).all() and (x[0, 15:] == 255).all() and (x[0, :, 15:] == 255).all()
    np.testing.assert_array_equal(x[0], 255 - x[2])
    assert 0 < x[0, 6, 13] < 255  # bilinear, not nearest
    np.testing.assert_array_equal(load(inverted(tiny), "test", tmp_path).x, 255 - found.x)


def test_omniglot_with_another_checksum(tmp_path):
    write(tmp_path / "omniglot-py/images_evaluation.zip", b"no zip")
    with pytest.raises(UserError, match="MD5 differs"):
        omniglot().read(tmp_path, "test")


def test_notmnist_skips_only_unreadable_files(tmp_path):
    x = RNG.integers(0, 256, (10, 28, 28), np.uint8)
    for letter, image in zip("ABCDEFGHIJ", x, strict=True):
        write(tmp_path / f"notMNIST/notMNIST_small/{letter}/a.png", picture(image, "PNG"))
    write(tmp_path / "notMNIST/notMNIST_small/A/RGVt.png", b"")
    write(tmp_path / "notMNIST/notMNIST_small/F/Q3Jv.png", b"\x89PNG\r\n\x1a\nrest is missing")
    found = load(replace(notmnist(), sizes={"test": 10}), "test", tmp_path)
    np.testing.assert_array_equal(found.x[:, 0], x)
    assert found.y.tolist() == list(range(10))
    (tmp_path / "prepared/notmnist/test.npy").unlink()
    write(tmp_path / "notMNIST/notMNIST_small/B/a.png", b"")
    with pytest.raises(UserError, match="contain 9 examples, not 10"):
        load(replace(notmnist(), sizes={"test": 10}), "test", tmp_path)


def test_notmnist_archive(tmp_path, monkeypatch):
    def download(url: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / url.rsplit("/", 1)[1], "w:gz") as tar:
            data = picture(np.full((28, 28), 7, np.uint8), "PNG")
            entry = tarfile.TarInfo(f"{url.rsplit('/', 1)[1].split('.')[0]}/A/a.png")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    with pytest.raises(UserError, match="is not 247,336,696 bytes long"):
        notmnist().fetch(tmp_path)
    assert not (tmp_path / "notMNIST/notMNIST_large.tar.gz").exists()

    class AnySize(dict):
        def __getitem__(self, split):
            return (tmp_path / f"notMNIST/{notmnist_module.FOLDERS[split]}.tar.gz").stat().st_size

    monkeypatch.setattr(notmnist_module, "BYTES", AnySize())
    notmnist().fetch(tmp_path)
    assert (tmp_path / "notMNIST/notMNIST_small/A/a.png").exists()


def norb(array: np.ndarray) -> bytes:
    magic = {np.dtype(np.uint8): 0x1E3D4C55, np.dtype(np.int32): 0x1E3D4C54}[array.dtype]
    shape = (*array.shape, 1, 1)[: max(3, array.ndim)]
    return struct.pack(f"<ii{len(shape)}i", magic, array.ndim, *shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_smallnorb(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(smallnorb_module, "MD5", {})
    pairs = np.zeros((2, 2, 96, 96), np.uint8)
    pairs[0, 0], pairs[0, 1], pairs[1, 0] = 10, 20, 30
    pairs[1, 1, :48] = 200
    for name, array in zip(smallnorb_module.RAW["test"], (pairs, np.array([4, 1], np.int32)), strict=True):
        data = norb(array)
        write(tmp_path / (name + ".gz" * packed), gzip.compress(data) if packed else data)
    found = load(replace(smallnorb(), sizes={"test": 4}), "test", tmp_path)
    assert found.y.tolist() == [4, 4, 1, 1]
    assert [int(x.mean()) for x in found.x[:3]] == [10, 20, 30]
    assert (found.x[3, 0, :13] == 200).all() and (found.x[3, 0, 15:] == 0).all()


def test_smallnorb_damaged(tmp_path):
    name = smallnorb_module.RAW["train"][0]
    write(tmp_path / name, struct.pack("<ii4i", 0x12345678, 4, 1, 1, 1, 1))
    with pytest.raises(UserError, match="unknown magic number"):
        smallnorb_module.decode(tmp_path, name)
    write(tmp_path / name, norb(np.zeros((2, 2, 96, 96), np.uint8))[:-1])
    with pytest.raises(UserError, match="damaged"):
        smallnorb_module.decode(tmp_path, name)
    write(tmp_path / name, norb(np.zeros((2, 2, 96, 96), np.uint8)))
    with pytest.raises(UserError, match="not the published file"):
        smallnorb_module.decode(tmp_path, name)


def planes(images: np.ndarray) -> np.ndarray:
    """uint8 (N, 32, 32, 3) as the rows of red, green and blue planes of the CIFAR format."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def test_cifar10(tmp_path, monkeypatch):
    trust(monkeypatch, "torchvision.datasets.cifar")
    images = np.stack([quadrants(32), RED])
    folder = tmp_path / "cifar-10-batches-py"
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        write(
            folder / name,
            pickle.dumps({"data": planes(images), "labels": [5, int(name[-1]) if name[-1].isdigit() else 0]}),
        )
    write(folder / "batches.meta", pickle.dumps({"label_names": list("abcdefghij")}))
    test = load(replace(cifar10(), sizes={"test": 2}), "test", tmp_path)
    np.testing.assert_array_equal(test.x, images.transpose(0, 3, 1, 2))
    assert_quadrants(test.x[0], 0)
    x, y = cifar10().read(tmp_path, "train")
    assert x.shape == (10, 3, 32, 32) and y.tolist() == [5, 1, 5, 2, 5, 3, 5, 4, 5, 5]


def test_cifar100(tmp_path, monkeypatch):
    trust(monkeypatch, "torchvision.datasets.cifar")
    images = np.stack([quadrants(32), RED])
    for name, first in (("train", 98), ("test", 3)):
        batch = {"data": planes(images), "fine_labels": [first, 99], "coarse_labels": [1, 2]}
        write(tmp_path / "cifar-100-python" / name, pickle.dumps(batch))
    write(tmp_path / "cifar-100-python/meta", pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    found = load(replace(cifar100(), sizes={"test": 2}), "test", tmp_path)
    np.testing.assert_array_equal(found.x, images.transpose(0, 3, 1, 2))
    assert found.y.tolist() == [3, 99] and cifar100().read(tmp_path, "train")[1].tolist() == [98, 99]


def test_textures(tmp_path):
    base = tmp_path / "dtd/dtd"
    wide = np.pad(quadrants(64), ((0, 0), (30, 30), (0, 0)))  # what the centre crop keeps
    write(base / "images/zigzagged/zigzagged_0002.jpg", picture(wide, "JPEG", quality=95, subsampling=0))
    write(base / "images/banded/banded_0004.jpg", picture(np.full((300, 400, 3), 77, np.uint8), "JPEG"))
    write(base / "labels/test1.txt", b"banded/banded_0004.jpg\nzigzagged/zigzagged_0002.jpg\n")
    write(base / "labels/train1.txt", b"banded/banded_0004.jpg\n")
    found = load(replace(textures(), sizes={"test": 2}), "test", tmp_path)
    assert found.y.tolist() == [0, 1] and (found.x[0] == 77).all()
    assert_quadrants(found.x[1])
    assert len(textures().read(tmp_path, "train")[0]) == 1


@pytest.mark.parametrize(
    ("make", "folder", "side", "kind"),
    [
        (lsun_crop, "LSUN/test", 36, "PNG"),
        (lsun_resize, "LSUN_resize/LSUN_resize", 32, "PNG"),
        (isun, "iSUN/iSUN_patches", 32, "JPEG"),
    ],
)
def test_folders_of_odin(tmp_path, monkeypatch, make, folder, side, kind):
    sharp = np.kron(RNG.integers(0, 2, (side // 2, side // 2, 3), np.uint8) * 255, np.ones((2, 2, 1), np.uint8))

    def download(url: str, root: Path, name: str, md5: str) -> None:
        assert url.endswith(name) and len(md5) == 32
        with tarfile.open(Path(root) / name, "w:gz") as tar:
            for i, image in enumerate((sharp, np.full_like(sharp, 9))):
                data = picture(image, kind)
                entry = tarfile.TarInfo(f"{folder}/{i}.{kind.lower()}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    with pytest.raises(UserError, match=f"fetch {make().name}"):
        load(make(), "test", tmp_path)
    make().fetch(tmp_path)
    found = load(replace(make(), sizes={"test": 2}), "test", tmp_path)
    assert found.x.shape == (2, 3, 32, 32) and found.y is None and (found.x[1] == 9).all()
    if kind == "PNG":  # pixels as published: cropped, not resampled
        border = (side - 32) // 2
        inner = sharp[border : border + 32, border : border + 32]
        np.testing.assert_array_equal(found.x[0], inner.transpose(2, 0, 1))


def test_cifar10_with_another_checksum(tmp_path):
    pytest.importorskip("torchvision")
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        write(tmp_path / "cifar-10-batches-py" / name, b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UserError, match="not the published one"):
        load(cifar10(), "test", tmp_path)


def test_svhn(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    trust(monkeypatch, "torchvision.datasets.svhn")
    images = np.stack([quadrants(32), RED], -1)  # (32, 32, 3, N), as in the file
    scipy_io.savemat(tmp_path / "test_32x32.mat", {"X": images, "y": np.array([[10], [7]], np.uint8)})
    found = load(replace(svhn(), sizes={"test": 2}), "test", tmp_path)
    assert_quadrants(found.x[0], 0)
    np.testing.assert_array_equal(found.x[1], RED.transpose(2, 0, 1))
    assert found.y.tolist() == [0, 7]


def test_gtsrb(tmp_path):
    base = tmp_path / "gtsrb"
    write(base / "GTSRB/Training/00001/00000_00000.ppm", picture(quadrants(64), "PPM"))
    write(base / "GTSRB/Training/00000/00000_00000.ppm", picture(RED, "PPM"))
    wide = np.repeat(quadrants(40), 2, axis=1)
    write(base / "GTSRB/Final_Test/Images/00000.ppm", picture(wide, "PPM"))
    write(
        base / "GT-final_test.csv",
        b"Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n00000.ppm;80;40;5;5;70;30;16\n",
    )
    x, y = gtsrb().read(tmp_path, "train")
    assert y.tolist() == [0, 1]
    np.testing.assert_array_equal(x[0], RED.transpose(2, 0, 1))
    assert_quadrants(x[1], 0)
    x, y = gtsrb().read(tmp_path, "test")
    assert y.tolist() == [16]
    assert_quadrants(x[0], 0)  # squeezed, not cropped: all four colours are still there


def test_celeba(tmp_path, monkeypatch):
    trust(monkeypatch, "torchvision.datasets.celeba")
    tall = np.zeros((218, 178, 3), np.uint8)
    tall[20:198] = quadrants(178)  # what the centre crop keeps
    base = tmp_path / "celeba"
    write(base / "img_align_celeba/000001.jpg", picture(np.zeros_like(tall), "JPEG"))
    write(base / "img_align_celeba/000002.jpg", picture(tall, "JPEG", quality=95, subsampling=0))
    write(base / "img_align_celeba/000003.jpg", picture(np.full_like(tall, 50), "JPEG"))
    write(base / "list_eval_partition.txt", b"000001.jpg 0\n000002.jpg 2\n000003.jpg 2\n")
    write(base / "identity_CelebA.txt", b"000001.jpg 2880\n000002.jpg 2937\n000003.jpg 5\n")
    for name in ("list_attr_celeba.txt", "list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        write(base / name, b"3\na b\n000001.jpg -1 1\n000002.jpg 1 1\n000003.jpg 1 1\n")
    found = load(replace(celeba(), sizes={"test": 2}), "test", tmp_path)
    assert found.y.tolist() == [2937, 5]
    assert_quadrants(found.x[0])


def test_places365(tmp_path, monkeypatch):
    trust(monkeypatch, "torchvision.datasets.places365")
    base = tmp_path / "places365"
    write(base / "categories_places365.txt", b"/a/airfield 0\n/z/zen_garden 1\n")
    write(base / "places365_val.txt", b"Places365_val_00000001.jpg 1\nPlaces365_val_00000002.jpg 0\n")
    write(base / "val_256/Places365_val_00000001.jpg", picture(quadrants(256), "JPEG"))
    write(base / "val_256/Places365_val_00000002.jpg", picture(np.full((256, 256), 77, np.uint8), "JPEG"))
    found = load(replace(places365(), sizes={"test": 2}), "test", tmp_path)
    assert found.y.tolist() == [1, 0]
    assert_quadrants(found.x[0])
    assert (found.x[1] == 77).all()  # a grey photograph in three channels


def test_flowers102(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    trust(monkeypatch, "torchvision.datasets.flowers102")
    base = tmp_path / "flowers-102"
    for i in range(1, 5):
        write(base / f"jpg/image_{i:05}.jpg", picture(np.roll(quadrants(96), i - 3, 2), "JPEG", quality=95))
    scipy_io.savemat(base / "imagelabels.mat", {"labels": np.array([[77, 1, 102, 8]], np.uint8)})
    splits = {"trnid": [[1]], "valid": [[2]], "tstid": [[3, 4]]}
    scipy_io.savemat(base / "setid.mat", {name: np.array(ids, np.uint16) for name, ids in splits.items()})
    found = load(replace(flowers102(), sizes={"test": 2}), "test", tmp_path)
    assert found.y.tolist() == [101, 7]
    assert_quadrants(found.x[0])


def test_lfw(tmp_path, monkeypatch):
    trust(monkeypatch, "torchvision.datasets.lfw")
    base = tmp_path / "lfw-py"
    write(base / "lfw-funneled.tgz", b"-")
    write(base / "lfw-names.txt", b"Ada_A\t1\nBob_B\t2\n")
    write(base / "peopleDevTest.txt", b"1\nBob_B\t2\n")
    write(base / "lfw_funneled/Bob_B/Bob_B_0001.jpg", picture(RED, "JPEG"))
    write(base / "lfw_funneled/Bob_B/Bob_B_0002.jpg", picture(quadrants(250), "JPEG", quality=95))
    found = load(replace(lfw(), sizes={"test": 2}), "test", tmp_path)
    assert found.y.tolist() == [1, 1]
    assert_quadrants(found.x[1])
    (base / "lfw_funneled/Bob_B/Bob_B_0002.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match="image 1 of LFWPeople"):
        lfw().read(tmp_path, "test")


def test_imagenet32(tmp_path):
    for i in range(1, 11):
        batch = {"data": planes(np.stack([quadrants(32)])), "labels": [i], "mean": np.zeros(3072)}
        write(tmp_path / f"imagenet32/train_data_batch_{i}", pickle.dumps(batch, protocol=2))
    found = load(replace(imagenet32(), sizes={"train": 10}), "train", tmp_path)
    assert found.y.tolist() == list(range(1, 11))
    assert_quadrants(found.x[9], 0)


def test_imagenet32_runs_no_program(tmp_path):
    path = write(tmp_path / "val_data", b"cos\nsystem\n(S'exit 3'\ntR.")
    with pytest.raises(UserError, match=r"asks for os\.system"):
        imagenet32_module.decode(path)
    for data in (b"", pickle.dumps({"data": np.zeros((2, 5))}), pickle.dumps([1])):
        with pytest.raises(UserError, match="not a batch"):
            imagenet32_module.decode(write(path, data))


SETS = (
    *(mnist, fashion_mnist, kmnist, emnist_letters, omniglot, notmnist, smallnorb, cifar10, svhn, gtsrb),
    *(celeba, places365, flowers102, lfw, imagenet32),
)


@pytest.mark.parametrize("make", SETS)
def test_nothing_there(tmp_path, make):
    dataset: Dataset = make()
    assert set(dataset.raw) == set(dataset.sizes)
    for split in dataset.sizes:
        with pytest.raises(FileNotFoundError) as caught:
            dataset.read(tmp_path, split)
        assert str(caught.value.filename).startswith(str(tmp_path))
        with pytest.raises(UserError) as told:
            load(dataset, split, tmp_path)
        message = str(told.value)
        assert caught.value.filename in message
        assert (f"fetch {dataset.name}" if dataset.fetch else dataset.about) in message
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("make", [mnist, fashion_mnist])
def test_real_raw_files_equal_the_prepared_array(data_root, make):
    dataset = make()
    prepared = data_root / "prepared" / dataset.name
    if not (data_root / f"{dataset.raw['test'][0]}.gz").exists() or not (prepared / "test.npy").exists():
        pytest.skip("not at hand")
    for split in ("train", "test"):
        x, y = dataset.read(data_root, split)
        assert len(x) == dataset.sizes[split]
        np.testing.assert_array_equal(x, np.load(prepared / f"{split}.npy", mmap_mode="r"))
        np.testing.assert_array_equal(y, np.load(prepared / f"{split}_labels.npy"))


@pytest.mark.parametrize("make", [omniglot, kmnist, svhn, emnist_letters])
def test_real_prepared_files_load_and_are_named_honestly(data_root, tmp_path, make):
    dataset = make()
    source = data_root / "prepared" / dataset.name
    if not source.exists():
        pytest.skip("not at hand")
    target = tmp_path / "prepared" / dataset.name
    target.mkdir(parents=True)
    for path in source.glob("*.npy"):
        (target / path.name).symlink_to(path)
    for split, size in dataset.sizes.items():
        if not list(source.glob(f"{split}*.npy")):
            continue
        found = load(dataset, split, tmp_path)
        assert (found.origin == f"official {split} split") == (len(found.x) == size)
