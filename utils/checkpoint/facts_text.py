"""The facts of a checkpoint as lines to be read."""

from __future__ import annotations

from collections.abc import Iterator

from utils.checkpoint.facts import Facts

WIDTH = 11
UNKNOWN = "not in the file"
MOST_CLASSES = 10


def lines(facts: Facts) -> Iterator[str]:
    """A line for each part; what comes from the file is shown without control characters."""
    for title, text in _parts(facts):
        yield f"  {title:<{WIDTH}} {printable(text)}"


def printable(text: str) -> str:
    """The text with everything escaped that could move a cursor or break a line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _parts(facts: Facts) -> Iterator[tuple[str, str]]:
    model, resume = facts.model, facts.resume
    yield "kind", f"{facts.kind}, {facts.format} {_version(facts.version)}"
    yield "epochs", _epochs(facts)
    for segment in facts.segments:
        first, last = segment["start"], segment["start"] + segment["epochs"] - 1
        yield "segment", f"{segment['mode']}, {segment['epochs']} epochs: {first} … {last}"
    yield "EMA", UNKNOWN if facts.ema_updates is None else f"counter {facts.ema_updates}"
    yield "optimizer", _optimizer(facts)
    yield "AMP scaler", f"scale {facts.scaler.get('scale')}" if facts.scaler else "none"
    yield "history", f"{facts.history} epochs"
    yield "best", _best(facts)
    yield (
        "model",
        f"{model['parameters']:,} parameters, {model['tensors']} tensors, "
        f"{model['number_format']}, depth {model['depth_multiple']}, "
        f"width {model['width_multiple']}",
    )
    more = ", …" if len(facts.classes) > MOST_CLASSES else ""
    yield "classes", f"{len(facts.classes)}: {', '.join(facts.classes[:MOST_CLASSES])}{more}"
    software = ", ".join(f"{name} {version}" for name, version in facts.software.items())
    yield "software", software or UNKNOWN
    yield "to go on", resume["how"]
    yield "  there", ", ".join(resume["there"]) or "nothing"
    yield "  missing", ", ".join(resume["missing"]) or "nothing"


def _version(version: str | int) -> str:
    return f"version {version}" if isinstance(version, int) else version


def _epochs(facts: Facts) -> str:
    done = "an unknown number" if facts.epoch is None else str(facts.epoch)
    planned = "" if facts.planned is None else f" of {facts.planned}"
    text = f"{done}{planned} completed"
    if facts.step is not None:
        text += f", step {facts.step}"
    if facts.under_way:
        text += (
            f"; {facts.under_way['batches']} batches into the next one, "
            f"{facts.under_way['pending']} of them not yet applied"
        )
    return text


def _optimizer(facts: Facts) -> str:
    if facts.optimizer is None:
        return UNKNOWN
    name, buffers, parameters = (facts.optimizer[key] for key in ("name", "buffers", "parameters"))
    return f"{name}, {buffers} buffers of {parameters} parameters"


def _best(facts: Facts) -> str:
    if facts.best is None:
        return "not known"
    epoch = f" in epoch {facts.best['epoch']}" if "epoch" in facts.best else ""
    return f"fitness {facts.best['fitness']:.5g}{epoch}"
