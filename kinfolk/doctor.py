"""What is installed, which device and implementation will be used, and what is missing for what."""

from __future__ import annotations

import platform
import re
from importlib import metadata


def doctor() -> str:
    """Describe the installation in a few plain lines per topic; needs nothing beyond the core.

    Returns:
        Text with four parts: versions, packages by extra, device, and the implementation that the losses will use.

    Example:
        >>> "torch" in doctor()
        True
    """
    return "\n".join([*_versions(), "", *_packages(), "", *_device(), "", *_implementation()])


def extras() -> dict[str, list[str]]:
    """Read from kinfolk's own metadata which packages each extra brings; "core" holds those without an extra.

    Example:
        >>> "torch" in extras()["core"]
        True
    """
    found: dict[str, list[str]] = {"core": []}
    for requirement in metadata.requires("kinfolk") or []:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        assert name is not None, f"a requirement begins with a name: {requirement}"
        found.setdefault(extra.group(1) if extra else "core", []).append(name.group())
    return found


def installed(package: str) -> str | None:
    """Version of an installed distribution, or None.

    Example:
        >>> installed("no-such-package") is None
        True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> list[str]:
    import kinfolk

    return [f"kinfolk {kinfolk.__version__}", f"Python {platform.python_version()} on {platform.platform()}"]


# Only what this version uses; the other extras in the metadata are for what comes next.
_PURPOSE = {
    "core": "losses and graphs",
    "train": "training, evaluation, reports and the command line",
    "text": "graphs of captions and class names",
    "hf": "encoders from transformers",
    "timm": "encoders from timm",
    "icons": "preparing emoji and icons",
}


def _packages() -> list[str]:
    lines = ["packages"]
    try:
        known = extras()
    except metadata.PackageNotFoundError:
        return [*lines, "  kinfolk itself is not installed, so its extras are unknown; pip install -e . in its folder"]
    for extra, purpose in _PURPOSE.items():
        versions = {package: installed(package) for package in known.get(extra, [])}
        missing = [package for package, version in versions.items() if version is None]
        lines.append(f"  {extra}, for {purpose}: {'complete' if not missing else 'missing ' + ', '.join(missing)}")
        lines += [f"    {package} {version}" for package, version in versions.items() if version is not None]
        if missing:
            lines.append(f'    to complete it: pip install "{"kinfolk" if extra == "core" else f"kinfolk[{extra}]"}"')
    return lines


def _device() -> list[str]:
    import torch

    if torch.cuda.is_available():
        names = sorted({torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())})
        found = f"{torch.cuda.device_count()} GPU(s), {', '.join(names)}"
    else:
        found = f"no GPU; a CPU with {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    try:
        from kinfolk.train.device import resolve_device, resolve_precision
    except ImportError:
        return ["device", f"  torch sees {found}", "  training needs the train extra"]
    device = resolve_device("auto")
    return ["device", f"  torch sees {found}", f"  training uses {device} in {resolve_precision('auto', device)}"]


def _implementation() -> list[str]:
    import torch

    from kinfolk.ops import explain

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return ["losses, for 4096 rows of 128 features", f"  {explain(torch.zeros(4096, 128, device=device))}"]
