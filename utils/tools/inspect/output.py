"""The facts about a checkpoint as text or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from utils.options.script import printable_line

TITLE_WIDTH = 11
UNKNOWN = "not in the file"
MAX_NAMED_CLASSES = 10
MAX_NAMED_PARTS = 5
"""Number of damaged members or tensors that a message names."""


def json_text(facts: dict[str, Any]) -> str:
    """Return the facts of a file as JSON; infinity and NaN, which JSON does not have, are null."""
    return json.dumps(_plain(facts), indent=2, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def text_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the facts of a file as lines of text, with control characters from the file escaped."""
    yield f"{printable_line(facts['file'])}, {facts['bytes']:,} bytes"
    if "kind" in facts:  # false if a checksum is wrong, since then the content cannot be trusted
        for title, text in _titled(facts):
            yield f"  {title:<{TITLE_WIDTH}} {printable_line(text)}"
    if "verified" in facts:
        yield _verdict(facts["verified"])


def _titled(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts about the content, each with its title."""
    yield "kind", "{kind}, {format}, version {version}".format(**facts)
    yield "epochs", _epochs(facts)
    for segment in facts["segments"]:
        first, count = segment["start"], segment["epochs"]
        yield "segment", f"{segment['mode']}, {count} epochs: {first} … {first + count - 1}"
    updates, optimizer, scaler = facts["ema_updates"], facts["optimizer"], facts["scaler"]
    yield "EMA", UNKNOWN if updates is None else f"counter {updates}"
    if facts["averaged_epochs"] is not None:
        yield "average", f"mean of the weights after {facts['averaged_epochs']} epochs"
    state = "{name}, {buffers} buffers of {parameters} parameters"
    yield "optimizer", state.format(**optimizer) if optimizer else UNKNOWN
    yield "AMP scaler", f"scale {scaler.get('scale')}" if scaler else "none"
    yield "history", f"{facts['history']} epochs"
    best = facts["best"] or {}
    fitness = f"fitness {best['fitness']:.5g}" if best else "unknown"
    yield "best", f"{fitness} in epoch {best['epoch']}" if "epoch" in best else fitness
    size = "{parameters:,} parameters, {tensors} tensors, {number_format}"
    scale = "depth {depth_multiple}, width {width_multiple}"
    yield "model", f"{size}, {scale}".format(**facts["model"])
    classes = facts["classes"]
    yield "classes", f"{len(classes)}: {_join_first(classes, MAX_NAMED_CLASSES)}"
    software = [f"{name} {version}" for name, version in facts["software"].items()]
    yield "software", ", ".join(software) or UNKNOWN
    yield "resume", facts["resume"]["how"]
    yield "  present", ", ".join(facts["resume"]["there"]) or "nothing"
    yield "  missing", ", ".join(facts["resume"]["missing"]) or "nothing"


def _epochs(facts: dict[str, Any]) -> str:
    epoch, planned, step = facts["epoch"], facts["planned"], facts["step"]
    text = "completed unknown" if epoch is None else f"{epoch} completed"
    text += "" if planned is None else f", {planned} planned"
    text += "" if step is None else f", step {step}"
    if facts["under_way"]:
        text += "; {batches} batches into the next one, {pending} of them not yet applied".format(
            **facts["under_way"]
        )
    return text


def _verdict(verified: dict[str, Any]) -> str:
    wrong_sums, not_finite = verified["wrong_sums"], verified["not_finite"]
    if wrong_sums:
        count = f"{len(wrong_sums)} of {verified['members']} members"
        names = _join_first(wrong_sums, MAX_NAMED_PARTS)
        return f"Damaged: {count} have a wrong checksum: {names}. {verified['advice']}".rstrip()
    sums = f"the checksums of all {verified['members']} members are correct"
    if not_finite:
        count = f"{len(not_finite)} of {verified['tensors']} tensors"
        names = _join_first(not_finite, MAX_NAMED_PARTS)
        return f"Damaged: {count} are not finite: {names}; {sums}."
    return f"Verified: {sums}, and all {verified['tensors']} tensors are finite."


def _join_first(names: Sequence[str], count: int) -> str:
    more = ", …" if len(names) > count else ""
    return ", ".join(names[:count]) + more
