"""Somebody's photographs and what does not belong among them, as folders of image files, to try `own_images` with.

    python experiments/beyond/own_photographs.py DEST

writes DEST/photographs (1,500 training images of CIFAR-10), DEST/fresh (1,000 of its test images, for the false-alarm
rate), DEST/signs (500 of GTSRB), DEST/numbers (500 of SVHN), DEST/others (500 photographs of ImageNet32), DEST/noise
(500, uniform). Every image is enlarged to a random size from 96 to 256 pixels a side by bicubic interpolation and saved
as PNG or JPEG of quality 75 to 95, alike in all folders. Needs the prepared sets under OODGEN_DATA.
"""

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SOURCES = {
    "photographs": ("cifar10/train.npy", 1500),
    "fresh": ("cifar10/test.npy", 1000),
    "signs": ("gtsrb/test_sample.npy", 500),
    "numbers": ("svhn/test_sample.npy", 500),
    "others": ("imagenet32/train_sample.npy", 500),
    "noise": (None, 500),
}


def main(destination: Path) -> None:
    prepared = Path(os.environ["OODGEN_DATA"]) / "prepared"
    for seed, (name, (source, count)) in enumerate(SOURCES.items()):
        random = np.random.default_rng(seed)
        folder = destination / name
        folder.mkdir(parents=True)
        if source is None:
            images = random.integers(0, 256, (count, 3, 32, 32), np.uint8)
        else:
            every = np.load(prepared / source, mmap_mode="r")
            images = every[np.sort(random.choice(len(every), count, replace=False))]
        for i, image in enumerate(images):
            size = tuple(int(side) for side in random.integers(96, 257, 2))
            enlarged = Image.fromarray(image.transpose(1, 2, 0)).resize(size, Image.Resampling.BICUBIC)
            if random.random() < 0.5:
                enlarged.save(folder / f"{i:04}.png")
            else:
                enlarged.save(folder / f"{i:04}.jpg", quality=int(random.integers(75, 96)))


if __name__ == "__main__":
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit("usage: python experiments/beyond/own_photographs.py DEST (a folder that does not exist yet)")
    main(Path(sys.argv[1]))
