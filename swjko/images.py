"""Sets of images from files and folders."""

from swjko.data.images import (
    Images,
    digits_images,
    load_array,
    load_cifar10,
    load_idx,
    load_image_folder,
    load_images,
)

__all__ = [
    "Images",
    "digits_images",
    "load_array",
    "load_cifar10",
    "load_idx",
    "load_image_folder",
    "load_images",
]
