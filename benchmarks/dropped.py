"""What was tried for the scorer and left out, beside what took its place: so that nobody has to try it again."""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness import Part, Scale, interleaved, medians
from benchmarks.models import NUM_SAMPLES, pixels_for, settings_for, trained
from skinvae.model.layers import OverlapAdd, PhaseOutput
from skinvae.model.network import FastNetwork
from skinvae.model.objective import kl_divergence
from skinvae.model.precision import DTYPES, Precision, fastest_precision
from skinvae.model.vae import to_unit_range

NUM_DRAWS = 30
MATRIX_PRODUCT, ONE, FOUR, AS_IT_IS = "matrix product, added up", "one 3x3 to four phases", "four 2x2", "transposed"


def measure(scale: Scale) -> Part:
    """ms of each upsampling layer for the draws of one image, computed in four ways; and an encoder in bfloat16."""
    torch.set_num_threads(scale.threads)
    settings = settings_for(scale)
    precisions: list[Precision] = ["float32"]
    if fastest_precision(torch.device("cpu")) == "bfloat16":
        precisions.append("bfloat16")
    channels = [*settings.block_channels[::-1], 3]
    ways: dict[str, Callable[[], float | None]] = {}
    for precision in precisions:
        for number, (num_in, num_out) in enumerate(itertools.pairwise(channels)):
            side = 4 * 2**number
            for name, layer in _layers(num_in, num_out).items():
                layer = layer.to(DTYPES[precision]).to(memory_format=torch.channels_last)  # noqa: PLW2901
                h_MCHW = torch.randn(NUM_DRAWS, num_in, side, side).to(DTYPES[precision])
                h_MCHW = h_MCHW.contiguous(memory_format=torch.channels_last)
                way = f"{num_in} -> {num_out} channels, {side}x{side}, {precision}|{name}"
                ways[way] = functools.partial(_ms, layer, h_MCHW)
    seconds = medians(interleaved(ways, scale.rounds, say=scale.say))
    rows: dict[str, dict[str, Any]] = {}
    for way, ms in seconds.items():
        layer_name, _, name = way.partition("|")
        rows.setdefault(layer_name, {"layer": layer_name})[name] = ms
    return Part(
        name="dropped",
        title="Tried and dropped",
        rows=list(rows.values()),
        notes=[
            f"ms for {NUM_SAMPLES} draws, {NUM_DRAWS} at once, {scale.threads} threads, channels last. The scorer "
            "takes the matrix product from 512 channels on, one 3x3 for the last layer, the transposed convolution "
            "for the others.",
            *([_encoder_in_bfloat16(scale)] if "bfloat16" in precisions else []),
        ],
    )


class FourPhases(nn.Module):
    """A transposed convolution (kernel 4, stride 2, padding 1) as four 2x2 convolutions, interleaved."""

    def __init__(self, convolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = PhaseOutput(convolution).weight.unflatten(0, (-1, 2, 2))  # type: ignore[no-untyped-call]  # torch's omission
        for row in (0, 1):
            for column in (0, 1):
                phase = weight[:, row, column, :, row : row + 2, column : column + 2].clone()
                self.register_buffer(f"phase_{row}{column}", phase)
        assert convolution.bias is not None
        self.register_buffer("bias", convolution.bias.detach())

    def forward(self, h_MIHW: Tensor) -> Tensor:
        num, _, height, width = h_MIHW.shape
        padded = functional.pad(h_MIHW, (1, 1, 1, 1))
        out = h_MIHW.new_empty(num, 2 * height, 2 * width, len(self.get_buffer("bias")))
        for row in (0, 1):
            for column in (0, 1):
                part = padded[:, :, row : row + height + 1, column : column + width + 1]
                phase = functional.conv2d(part, self.get_buffer(f"phase_{row}{column}"), self.get_buffer("bias"))
                out[:, row::2, column::2] = phase.permute(0, 2, 3, 1)
        return out.permute(0, 3, 1, 2)


def _layers(num_in: int, num_out: int) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(num_in, num_out, 4, stride=2, padding=1)
    return {AS_IT_IS: layer, MATRIX_PRODUCT: OverlapAdd(layer), FOUR: FourPhases(layer), ONE: PhaseOutput(layer)}


def _ms(layer: nn.Module, h_MCHW: Tensor) -> float:
    with torch.inference_mode():
        layer(h_MCHW)
        started = time.perf_counter()
        for _ in range(3):
            layer(h_MCHW)
    return 1e3 * (time.perf_counter() - started) / 3 / len(h_MCHW) * NUM_SAMPLES


def _encoder_in_bfloat16(scale: Scale) -> str:
    """What it would do to the ranks of vae_kl."""
    settings = settings_for(scale)
    count, steps = (40, 20) if scale.small else (300, 60)
    images, what = pixels_for(scale, count, size=settings.image_size)
    scale.say("an encoder in bfloat16: training")
    model = trained(settings, images, steps=steps)
    network = FastNetwork(model, decoder_dtype=torch.bfloat16, device=torch.device("cpu"))
    layers = [layer for name, layer in network.layers.items() if name.startswith("encode")]
    short = nn.Sequential(*copy.deepcopy(layers)).to(torch.bfloat16)
    with torch.inference_mode():
        x_BCHW = to_unit_range(torch.from_numpy(images))
        as_scored = kl_divergence(*(t.double() for t in network.encode(x_BCHW)))
        in_bfloat16 = kl_divergence(*short(x_BCHW.bfloat16()).double().chunk(2, dim=1))
        seconds = [
            _seconds(functools.partial(one, x_BCHW[:16])) for one in (network.encode, lambda x: short(x.bfloat16()))
        ]
    correlation = float(spearmanr(as_scored, in_bfloat16).statistic)
    off = float((in_bfloat16 - as_scored).abs().max() / as_scored.std())
    full, half = (1e3 * one / 16 for one in seconds)
    return (
        f"With the encoder in bfloat16, too, {half:.1f} instead of {full:.1f} ms an image, vae_kl of "
        f"{len(images)} {what} has a rank correlation of {correlation:.6f} with that of the "
        f"encoder in float32, and differs by {off:.1e} standard deviations at most; trained "
        f"on them for {steps} steps of 32."
    )


def _seconds(work: Callable[[], Any]) -> float:
    work()
    started = time.perf_counter()
    for _ in range(3):
        work()
    return (time.perf_counter() - started) / 3
