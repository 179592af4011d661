"""Compares forward pass, loss, gradients and a short training of a device with those of the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.report import Check
from benchmarks.step import build_parser, build_training, random_batch
from utils.runtime.device import images_to_device
from utils.training.engine import train_step

IMAGES, BOXES, STEPS = 8, 16, 20
LOSS_SCALE = 256.0
"""Initial scale in fp16: at the default of 65536 the first steps would overflow and be skipped, and
the training would not be the one of the CPU."""
ROUNDING = {"fp32": 2.0**-19, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Relative error of an operation. In tf32, fp16 and bf16 it is the rounding of its operands to 11,
11 and 8 bits; products are added in fp32. In fp32 it is the sum: the rounding to 24 bits, times the
square root of the about 1000 products that a convolution adds in an order that differs by device.
"""
MARGIN = 4
"""How much farther than the CPU with perturbed weights a device may be from the CPU. The operations
round activations, gradients and weights, the perturbation only changes weights; the ratio is 0.1 to
1.4 for a CPU in bf16, in fp16, in another memory layout and without oneDNN."""
ONE_BOX = (IMAGES * BOXES) ** -0.5
"""Distance that is always allowed for gradients and what follows from them: the share of one box.
The derivative of the loss jumps, for example where two boxes begin to overlap, and it is a matter
of chance whether a box crosses such a point."""
UNRELATED = 1.0
"""Relative distance of zeros: a limit above it would check nothing."""


class Computed(NamedTuple):
    """What a device computed; vectors on the CPU, in float64."""

    raw_maps: Tensor
    losses: Tensor
    gradient_of_the_maps: Tensor
    gradient_of_the_weights: Tensor
    change_of_the_losses: Tensor
    """Losses of each of `STEPS` training steps, minus those of the first."""
    change_of_the_weights: Tensor
    batch_norm_statistics: Tensor


def check_parity(cfg: str, image_size: int, device: torch.device) -> list[Check]:
    """Compare a device with the CPU in fp32, in every precision of the device, on noise images.

    The limits are measured too: how far the CPU itself moves when its weights are perturbed by the
    rounding error of the precision. A network without training amplifies small errors, most of all
    in its gradients, so no fixed limit would be both safe and strict.

    Args:
        cfg: model file.
        image_size: side of the images, px.
        device: the CPU is compared with itself, in bf16 only.
    """
    gpu, cpu = device.type == "cuda", torch.device("cpu")
    reference = compute(cfg, image_size, cpu, "fp32")
    found = [] if gpu else [Check("fp32, tf32, fp16", None, note="needs a GPU")]
    for name in ROUNDING if gpu else ("bf16",):
        result = compute(cfg, image_size, device, name)
        perturbed = compute(cfg, image_size, cpu, "fp32", perturbation=ROUNDING[name])
        found += compared(name, result, perturbed, reference)
    return found


def compared(name: str, result: Computed, perturbed: Computed, reference: Computed) -> list[Check]:
    """Return a check for each vector of a result, against its distance in the perturbed one."""
    checks = []
    vectors = zip(Computed._fields, result, perturbed, reference, strict=True)
    for part, one, moved, other in vectors:
        moves = distance(moved, other)
        floor = ROUNDING[name] if part in ("raw_maps", "losses") else ONE_BOX
        limit = max(MARGIN * moves, floor)
        vague = limit >= UNRELATED
        note = f"no check: rounding alone moves it by {moves:.2g}" if vague else ""
        title = f"{name}: {part.replace('_', ' ')}, distance from the CPU"
        checks.append(Check(title, distance(one, other), None if vague else limit, note))
    return checks


def compute(
    cfg: str, image_size: int, device: torch.device, precision: str, perturbation: float = 0.0
) -> Computed:
    """Run one forward and backward pass, then `STEPS` training steps, from the same weights.

    Args:
        cfg: model file.
        image_size: side of the images, px.
        device: where to compute.
        precision: one of `ROUNDING`; convolutions in fp32 use TF32 only if it is tf32.
        perturbation: maximum relative change of each weight before the first pass.
    """
    amp = {"fp32": "off", "tf32": "off"}.get(precision, precision)
    words = f"--imgsz {image_size} --batch-size {IMAGES} --device {device} --amp {amp} --cfg"
    training = build_training(build_parser().parse_args([*words.split(), cfg]))
    state, context, model = training.state, training.context, training.model
    if state.scaler.is_enabled():
        scaler = torch.amp.GradScaler(device.type, init_scale=LOSS_SCALE)
        state = dataclasses.replace(state, scaler=scaler)
    rng = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        noise = 2 * torch.rand(weight.shape, generator=rng).to(device) - 1
        weight.data.mul_(1 + perturbation * noise)
    before = vector(model.parameters())
    batch = random_batch(IMAGES, image_size, BOXES, model.classes)
    images = images_to_device(batch.images, device, context.precision.dtype)
    default = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with context.precision.autocast():
            raw = model(images)
        for raw_map in raw:
            raw_map.retain_grad()
        losses = context.loss(raw, batch.targets, IMAGES, batch.ignored)
        state.scaler.scale(losses.total).backward()
        gradients = [vector(t.grad for t in group) for group in (raw, model.parameters())]
        state.gradients.flat.zero_()
        sums = [torch.zeros(3)]
        for _ in range(STEPS):
            train_step(state, context, batch, last=True)
            state.settle()
            sums.append(state.progress.losses.clone())
    finally:
        torch.backends.cudnn.allow_tf32 = default
    of_steps = torch.stack(sums).double().diff(dim=0)  # [STEPS, 3]
    scale = LOSS_SCALE if state.scaler.is_enabled() else 1.0
    return Computed(
        raw_maps=vector(raw),
        losses=vector(losses[1:]),
        gradient_of_the_maps=gradients[0] / scale,
        gradient_of_the_weights=gradients[1] / scale,
        change_of_the_losses=(of_steps - of_steps[0]).flatten(),
        change_of_the_weights=vector(model.parameters()) - before,
        batch_norm_statistics=vector(b for b in model.buffers() if b.is_floating_point()),
    )


def vector(tensors: Iterable[Tensor | None]) -> Tensor:
    """Return the elements of all tensors, on the CPU, in float64."""
    return torch.cat([t.detach().cpu().double().flatten() for t in tensors if t is not None])


def distance(one: Tensor, other: Tensor) -> float:
    """Return the Euclidean distance of two vectors, relative to the length of the second."""
    return float((one - other).norm() / other.norm())
