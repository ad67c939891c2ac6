"""Where an image's time goes inside the scorer, layer by layer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Part, Scale, interleaved, medians
from benchmarks.models import NUM_SAMPLES, settings_for
from skinvae.model.draws import collect_draws
from skinvae.model.network import FastNetwork
from skinvae.model.noise import draw_noise
from skinvae.model.precision import DTYPES, Precision, fastest_precision, matrix_precision
from skinvae.model.scorer import BATCH_SIZES
from skinvae.model.vae import VAE, to_unit_range

REST = "tanh, difference, square, sum, and all else"
NOISE = "noise, drawn on the CPU"


def measure(scale: Scale) -> Part:
    """One row a precision and layer, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(scale.threads)
    precisions: list[Precision] = ["float32"]
    if fastest_precision(device) != "float32":
        precisions.append("bfloat16")
    profiles = {one: _Profile(scale, one, device) for one in precisions}
    for profile in profiles.values():
        profile.run()  # the first time is slower, and not counted
    measured: dict[Precision, list[dict[str, float]]] = defaultdict(list)

    def way(precision: Precision) -> Callable[[], None]:
        def run() -> None:
            measured[precision].append(profiles[precision].run())

        return run

    interleaved({one: way(one) for one in precisions}, scale.rounds, say=scale.say)
    rows: list[dict[str, Any]] = []
    for precision, found in measured.items():
        seconds = medians({name: [one[name] for one in found] for name in found[0]})
        total = sum(seconds.values())
        flops = profiles[precision].flops
        for name, spent in seconds.items():
            row: dict[str, Any] = {"layer": f"{name}, {precision}", "ms/image": 1e3 * spent, "share": spent / total}
            rows.append(row | ({"GFLOP/s": flops[name] / spent / 1e9} if name in flops else {}))
    images, draws = BATCH_SIZES[device.type]
    return Part(
        name="layers",
        title="Inside the scorer",
        rows=rows,
        notes=[
            f"k = {NUM_SAMPLES}, {images} images encoded and {draws} draws decoded at once, {scale.threads} threads, "
            f"on {device}; FLOP are those that the layer does, which for the last one are 2.25 times the least.",
        ],
        bars=("layer", "ms/image"),
    )


class _Profile:
    """A network whose layers are timed as they run; on a GPU each is waited for."""

    def __init__(self, scale: Scale, precision: Precision, device: torch.device) -> None:
        settings = settings_for(scale)
        torch.manual_seed(0)
        self._network = FastNetwork(VAE(settings).eval(), decoder_dtype=DTYPES[precision], device=device)
        self._precision, self._device, self._settings = precision, device, settings
        self._seconds: dict[str, float] = defaultdict(float)
        self._started = 0.0
        self.flops: dict[str, float] = {}
        """Per image."""
        size, (count, _) = settings.image_size, BATCH_SIZES[device.type]
        self._images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        for name, layer in self._network.layers.items():
            self._time(name, layer)
        with torch.no_grad():  # the counter sees nothing in inference mode
            self._compute()

    def run(self) -> dict[str, float]:
        """Seconds per image, by layer."""
        self._seconds.clear()
        with torch.inference_mode():
            began, drawn, ended = self._compute()
        in_layers = dict(self._seconds)
        spent = in_layers | {REST: ended - drawn - sum(in_layers.values()), NOISE: drawn - began}
        return {name: seconds / len(self._images) for name, seconds in spent.items()}

    def _compute(self) -> tuple[float, float, float]:
        """When it began, when the noise was drawn, when it ended."""
        began = time.perf_counter()
        noise = draw_noise(self._images, seed=0, num_samples=NUM_SAMPLES, num_latents=self._settings.num_latents)
        drawn = time.perf_counter()
        with matrix_precision(self._precision):
            x_BCHW = to_unit_range(torch.from_numpy(self._images).to(self._device))
            eps_BKD = torch.from_numpy(noise).to(self._device)
            collect_draws(self._network, x_BCHW, eps_BKD, decode_batch_size=BATCH_SIZES[self._device.type][1])
        self._wait()
        return began, drawn, time.perf_counter()

    def _time(self, name: str, layer: nn.Module) -> None:
        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name not in self.flops:
                self.flops[name] = 0.0  # counting calls the layer once more
                with FlopCounterMode(display=False) as counter:
                    layer(*inputs)
                draws_or_images = len(inputs[0])
                per_image = NUM_SAMPLES if name.startswith("decode") else 1
                self.flops[name] = counter.get_total_flops() / draws_or_images * per_image
            self._wait()
            self._started = time.perf_counter()

        def after(_: nn.Module, __: tuple[Tensor, ...], ___: Tensor) -> None:
            self._wait()
            self._seconds[name] += time.perf_counter() - self._started

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
