"""The published constants of the 15 corruptions: for pictures up to 64 pixels CIFAR-10-C's, for larger ImageNet-C's.

Reference: Hendrycks, Dietterich (2019), Benchmarking neural network robustness to common corruptions and
    perturbations; the constants are those of the code published with it.
"""

from __future__ import annotations

Constants = tuple[tuple[float, ...], ...]

LARGEST_SMALL = 64
"""Pictures whose longer side is at most this take the constants of CIFAR-10-C."""

SMALL: dict[str, Constants] = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),  # standard deviation
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),  # photons at white
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),  # share of the values
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),  # radius, sigma that softens its edge
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),  # sigma, reach, rounds
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),  # radius, sigma
    "zoom_blur": ((0.06, 0.01), (0.11, 0.01), (0.16, 0.01), (0.21, 0.01), (0.26, 0.01)),  # end of the zooms, step
    "snow": (  # mean, sd, zoom, threshold, radius, sigma, share of the picture
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "procedural_frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),  # shares of picture and frost
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),  # thickness, decay of the detail
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic_transform": (  # displacement, sigma, reach of the affine part; all as shares of the side
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    ),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),  # share of the side that is left
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),  # quality
}

_244 = 244 / 224  # the published code has 244 where the pictures have 224 pixels

LARGE: dict[str, Constants] = {
    "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
    "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((0.11, 0.01), (0.16, 0.01), (0.21, 0.02), (0.26, 0.02), (0.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "procedural_frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic_transform": (
        (2 * _244, 0.7 * _244, 0.1 * _244),
        (2 * _244, 0.08 * _244, 0.2 * _244),
        (0.05 * _244, 0.01 * _244, 0.02 * _244),
        (0.07 * _244, 0.01 * _244, 0.02 * _244),
        (0.12 * _244, 0.01 * _244, 0.02 * _244),
    ),
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
}

CORRUPTIONS = tuple(SMALL)
"""The names of the 15 corruptions; the published ones, but for `procedural_frost`, which uses no photographs."""


def constants(corruption: str, severity: int, size: tuple[int, int]) -> tuple[float, ...]:
    """Look the constants up for pictures of a size.

    Example:
        >>> constants("contrast", 5, (32, 32)), constants("contrast", 5, (224, 224))
        ((0.15,), (0.05,))
    """
    table = SMALL if max(size) <= LARGEST_SMALL else LARGE
    return table[corruption][severity - 1]
