"""Views with the numbers of the papers, or of their authors' code; `size` None keeps the images' own.

Crops lie inside the image, and `padding="border"` keeps it so: at the image's edge bilinear reading would otherwise mix
in half a pixel of black.
"""

from __future__ import annotations

from dataclasses import replace

from kinfolk.data.views.config import Policy, ViewsConfig
from kinfolk.data.views.groups import ColourSpaceViewsConfig, MultiViewsConfig

Size = tuple[int, int]
_LARGE_CROP, _SMALL_CROP = (0.14, 1.0), (0.05, 0.14)


def simclr_views(*, count: int = 2, size: Size | None = None) -> ViewsConfig:
    """Views for photographs of about 32 pixels, as SimCLR takes them on CIFAR-10: colours at half strength, no blur.

    Reference: Chen, Kornblith, Norouzi, Hinton (2020), A simple framework for contrastive learning of visual
        representations, appendix B.9.

    Example:
        >>> simclr_views().crop_scale, simclr_views().brightness, simclr_views().blur
        ((0.08, 1.0), 0.4, 0.0)
    """
    return replace(_jittered(0.5), count=count, size=size, crop_scale=(0.08, 1.0))


def simclr_photo_views(*, count: int = 2, size: Size | None = None) -> ViewsConfig:
    """Views for photographs of 100 pixels and more, as SimCLR takes them on ImageNet: full colour strength, and blur.

    Reference: Chen, Kornblith, Norouzi, Hinton (2020), A simple framework for contrastive learning of visual
        representations, appendix A.

    Example:
        >>> simclr_photo_views().hue, simclr_photo_views().blur
        (0.2, 0.5)
    """
    return replace(_jittered(1.0), count=count, size=size, crop_scale=(0.08, 1.0), blur=0.5)


def moco_v2_views(*, count: int = 2, size: Size | None = None) -> ViewsConfig:
    """Views of MoCo v2: larger crops than SimCLR's, half the colour strength, and blur.

    Reference: Chen, Fan, Girshick, He (2020), Improved baselines with momentum contrastive learning.

    Example:
        >>> moco_v2_views().crop_scale, moco_v2_views().blur_sigma
        ((0.2, 1.0), (0.1, 2.0))
    """
    return replace(_jittered(0.5), count=count, size=size, crop_scale=(0.2, 1.0), blur=0.5)


def supcon_views(*, count: int = 2, size: Size | None = None) -> ViewsConfig:
    """Views of SupCon on CIFAR, which UniCon takes too: those of MoCo v2 without blur.

    Reference: Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan (2020), Supervised contrastive
        learning.

    Example:
        >>> supcon_views().jitter, supcon_views().saturation
        (0.8, 0.4)
    """
    return replace(moco_v2_views(count=count, size=size), blur=0.0)


def weak_views(*, count: int = 1, size: Size | None = None) -> ViewsConfig:
    """Views that keep the colours: a crop and a flip.

    Reference: Zheng, You, Wang, Qian, Zhang, Wang, Xu (2021), ReSSL: relational self-supervised learning with weak
        augmentation.

    Example:
        >>> weak_views().recolours
        False
    """
    return ViewsConfig(count=count, size=size, crop_scale=(0.2, 1.0), flip=0.5, crop_form="rejected", padding="border")


def weak_strong_views(*, size: Size | None = None) -> MultiViewsConfig:
    """A weak view, which SCE's target sees, and then a strong one, that of MoCo v2, which its online encoder sees.

    Reference: Denize, Rabarisoa, Orcesi, Hérault, Canu (2023), Similarity contrastive estimation for self-supervised
        soft contrastive learning.

    Example:
        >>> weak, strong = weak_strong_views().groups
        >>> weak.jitter, strong.jitter
        (0.0, 0.8)
    """
    return MultiViewsConfig(groups=(weak_views(size=size), moco_v2_views(count=1, size=size)))


def byol_views(*, size: Size | None = None) -> MultiViewsConfig:
    """A pair with two distributions: the first is always blurred, the second seldom, and sometimes solarised.

    Reference: Grill, Strub, Altché, Tallec, Richemond, Buchatskaya, Doersch, Avila Pires, Guo, Azar, Piot, Kavukcuoglu,
        Munos, Valko (2020), Bootstrap your own latent, appendix B.

    Example:
        >>> [(group.blur, group.solarize) for group in byol_views().groups]
        [(1.0, 0.0), (0.1, 0.2)]
    """
    base = replace(_jittered(0.5), count=1, size=size, crop_scale=(0.08, 1.0), saturation=0.2)
    return MultiViewsConfig(groups=(replace(base, blur=1.0), replace(base, blur=0.1, solarize=0.2)))


def multi_crop_views(
    base: ViewsConfig, *, size: Size, small_size: Size, large: int = 2, small: int = 6
) -> MultiViewsConfig:
    """Large crops first, then small ones that see a part and cost little.

    Args:
        base: everything but crops, sizes and counts.
        size: of the large crops, 14 % to all of the image; 224 on ImageNet.
        small_size: of the small ones, 5 % to 14 % of it; 96 on ImageNet.
        large: how many large ones.
        small: how many small ones.

    Reference: Caron, Misra, Mairal, Goyal, Bojanowski, Joulin (2020), Unsupervised learning of visual features by
        contrasting cluster assignments.

    Example:
        >>> multi_crop_views(moco_v2_views(), size=(32, 32), small_size=(16, 16)).count
        8
    """
    return MultiViewsConfig(
        groups=(
            replace(base, count=large, size=size, crop_scale=_LARGE_CROP),
            replace(base, count=small, size=small_size, crop_scale=_SMALL_CROP),
        )
    )


def relic_views(
    *, size: Size, small_size: Size, large: int = 4, small: int = 2, background: float = 0.0
) -> MultiViewsConfig:
    """Large and small crops of BYOL's kinds in turn, the large ones sometimes without their background.

    Args:
        size: of the large crops; 224 on ImageNet.
        small_size: of the small ones; 96 on ImageNet.
        large: how many large ones, an even number.
        small: how many small ones; they are of BYOL's second kind.
        background: probability that a large crop loses its background, 0.1 in the paper; needs saliency masks.

    Raises:
        ValueError: when `large` is odd.

    Reference: Tomasev, Bica, McWilliams, Buesing, Pascanu, Blundell, Mitrovic (2022), Pushing the limits of
        self-supervised ResNets: can we outperform supervised learning without labels on ImageNet?

    Example:
        >>> relic_views(size=(32, 32), small_size=(16, 16), large=2).count
        4
    """
    if large < 2 or large % 2:
        raise ValueError(f"large must be an even number of views, at least 2, half of either kind; found {large}")
    pair = (replace(group, size=size, crop_scale=_LARGE_CROP, background=background) for group in byol_views().groups)
    small_group = replace(byol_views().groups[1], count=max(small, 1), size=small_size, crop_scale=_SMALL_CROP)
    return MultiViewsConfig(groups=tuple(pair) * (large // 2) + (small_group,) * (small > 0))


def autoaugment_views(
    *, table: Policy = "autoaugment-cifar10", count: int = 2, size: Size | None = None
) -> ViewsConfig:
    """Views of ResCom and of supervised training on CIFAR: a shift by up to an eighth, a flip, AutoAugment, cutout.

    Reference: Cubuk, Zoph, Mané, Vasudevan, Le (2019), AutoAugment: learning augmentation strategies from data;
        DeVries, Taylor (2017), Improved regularization of convolutional neural networks with cutout.

    Example:
        >>> autoaugment_views().cutout
        0.5
    """
    return ViewsConfig(count=count, size=size, shift=0.125, flip=0.5, policy=table, cutout=0.5)


def hard_views(*, count: int = 2, size: Size | None = None) -> ViewsConfig:
    """Views harder than MoCo v2's, for losses that stand them, such as RényiCL: RandAugment and erasing as well.

    Reference: Lee, Shin (2022), RényiCL: contrastive representation learning with skew Rényi divergence. The paper
        names the kinds of augmentation; that RandAugment has two operations at strength 9, and that a quarter of the
        views is erased, are their usual settings elsewhere.

    Example:
        >>> hard_views().policy
        'randaugment'
    """
    return replace(moco_v2_views(count=count, size=size), policy="randaugment", erasing=0.25)


def cmc_views(*, size: Size | None = None) -> ColourSpaceViewsConfig:
    """One crop, perhaps mirrored, split into its lightness and its colours.

    Reference: Tian, Krishnan, Isola (2020), Contrastive multiview coding.

    Example:
        >>> cmc_views().count
        2
    """
    return ColourSpaceViewsConfig(weak_views(size=size))


def _jittered(strength: float) -> ViewsConfig:
    """SimCLR's colour distortion; in the papers' form, since it clamps so often that the order matters."""
    return ViewsConfig(
        flip=0.5,
        jitter=0.8,
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        grey=0.2,
        jitter_form="ordered",
        crop_form="rejected",
        padding="border",
    )
