"""An inspected relation as plain text."""

from __future__ import annotations

import math

from kinfolk.data.graph_inspection import GraphInspection, Pair, Sharpness


def format_graph_inspection(found: GraphInspection) -> str:
    """Lay an inspection out as plain text.

    Example:
        >>> from kinfolk.data import ClassTableConfig, DigitsConfig
        >>> from kinfolk.data.graph_inspection import inspect_graph
        >>> source = DigitsConfig().load().test
        >>> text = format_graph_inspection(inspect_graph(source, ClassTableConfig(temperature=0.3).build(source)))
        >>> text.splitlines()[0]
        'digits: ClassTable over 360 samples, batches of 256 with 2 views'
    """
    lines = [
        f"{found.name}: {found.about} over {found.samples} samples, batches of {found.batch_size} with"
        f" {found.views} views",
        f"pairs of different samples with weight 0: {100 * found.unrelated:.1f} %",
        f"now: {describe_sharpness(found.now)}",
    ]
    for suggestion in found.suggestions:
        lines.append(suggestion.why_not if suggestion.found is None else f"try {describe_sharpness(suggestion.found)}")
    for title, listed in (("most related", found.most_related), ("least related", found.least_related)):
        lines.append(f"{title}:")
        lines.extend(f"  {describe_pair(pair)}" for pair in listed)
    if found.captions is not None:
        repeats = sum(len(ids) for ids in found.repeated_captions.values())
        lines.append(f"captions: {found.captions} distinct; {repeats} samples share theirs with another")
        lines += [f"  {len(ids)} x {caption!r}" for caption, ids in list(found.repeated_captions.items())[:5]]
    return "\n".join(lines)


def describe_sharpness(sharpness: Sharpness) -> str:
    """Say in one line how sharp targets are.

    Example:
        >>> describe_sharpness(Sharpness(0.12, 14.2, 3.1, 12.0, 30.5, 0.31, None, 0.0))
        'temperature 0.12: perplexity 14.2 (5 % of rows below 3.1, half below 12, 95 % below 30.5), own sample 31 %'
    """
    at = "" if sharpness.temperature is None else f"temperature {sharpness.temperature:.3g}: "
    text = (
        f"{at}perplexity {sharpness.perplexity:.3g} (5 % of rows below {sharpness.low:.3g}, half below"
        f" {sharpness.median:.3g}, 95 % below {sharpness.high:.3g}), own sample {100 * sharpness.own_sample_mass:.0f} %"
    )
    if sharpness.own_class_mass is not None:
        text += f", own class {100 * sharpness.own_class_mass:.0f} %"
    if sharpness.without_target > 0:
        text += f"; {100 * sharpness.without_target:.1f} % of rows relate to no other row"
    return text


def describe_pair(pair: Pair) -> str:
    """Say in one line which samples a pair has.

    Example:
        >>> describe_pair(Pair((0, 1), (4, 9), 0.25, ("a cat", "a dog")))
        "0.250 below own: ids 4 and 9, 'a cat' and 'a dog'"
        >>> describe_pair(Pair((0, 1), (4, 9), float("inf")))
        'unrelated: ids 4 and 9'
    """
    how = "unrelated" if math.isinf(pair.below_own) else f"{pair.below_own:.3f} below own"
    captions = "" if pair.captions is None else f", {pair.captions[0]!r} and {pair.captions[1]!r}"
    return f"{how}: ids {pair.ids[0]} and {pair.ids[1]}{captions}"
