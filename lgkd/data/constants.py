"""Hold the normalisation constants of ImageNet, and the weights of luminance."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)

IMAGENET_STD = (0.229, 0.224, 0.225)

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of red, green and blue in a grey level: ITU-R 601 in the fixed point of Pillow's mode "L"; their sum is 1."""
