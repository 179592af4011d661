"""Finds what the files beside a weights file say about its training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from models.detector import Detector
from models.spec import ModelSpec
from utils.checkpoint.format import LAST
from utils.checkpoint.store import read_checkpoint
from utils.errors import UserError
from utils.files.yaml_file import read_yaml
from utils.upstream.options import find_run_file
from utils.upstream.reader import is_upstream_file, numbers, read_upstream
from utils.upstream.writer import TrainingFacts

log = logging.getLogger("yolo")


def complete_facts(
    facts: TrainingFacts, weights: Path, target: Path, model: Detector, names: Sequence[str]
) -> TrainingFacts:
    """Add options and hyper-parameters that a weights file does not have.

    They are those of the last.pt beside it, of the files of its run folder, or of an earlier export
    of the same weights; the first that has any counts.

    Args:
        facts: those of the weights file.
        weights: the weights file.
        target: the earlier export, which need not exist.
        model: the model in the file.
        names: class names.
    """
    sources = _sources(weights, target, model, names)
    while not (facts.options and facts.hyp) and (found := next(sources, None)):
        facts = facts._replace(options=facts.options or found.options, hyp=facts.hyp or found.hyp)
    return facts


def _sources(
    weights: Path, target: Path, model: Detector, names: Sequence[str]
) -> Iterator[TrainingFacts]:
    yield _facts_of_last(weights.with_name(LAST), model, names)
    options = _mapping(find_run_file(weights, "opt.yaml"))
    yield TrainingFacts(options, numbers(_mapping(find_run_file(weights, "hyp.yaml"))))
    yield _facts_of_export(target, model)


def _facts_of_last(path: Path, model: Detector, names: Sequence[str]) -> TrainingFacts:
    """Return the facts in the last.pt of a run with the same model and classes."""
    try:
        last = read_checkpoint(path) if path.is_file() and not is_upstream_file(path) else None
    except UserError:
        last = None
    if last is not None and last["kind"] == "training":
        config = last["config"]
        if config["names"] == [*names] and ModelSpec.from_dict(config["spec"]) == model.spec:
            return TrainingFacts(config["options"], config["hyp"])
    return TrainingFacts({}, {})


def _facts_of_export(path: Path, model: Detector) -> TrainingFacts:
    try:
        earlier = read_upstream(path) if path.is_file() else None
    except UserError:
        earlier = None
    if earlier is None:
        return TrainingFacts({}, {})
    state, found = model.state_dict(), earlier.weights
    same = state.keys() == found.keys() and all(
        torch.equal(tensor.to("cpu", found[name].dtype), found[name])
        for name, tensor in state.items()
    )
    return TrainingFacts(earlier.options or {}, earlier.hyp) if same else TrainingFacts({}, {})


def _mapping(file: Path | None) -> Mapping[str, object]:
    try:
        content = {} if file is None else read_yaml(file)
    except UserError as error:
        log.warning("%s", error)
        content = {}
    return content if isinstance(content, dict) else {}
