"""A training step beside open_clip's own model and loss, GradCache beside the step, the loader alone.

    python -m benchmarks.train_step [--towers RN50 ViT-B-32] [--batch 8] [--precision fp32] [--rounds 3]

Both take the same towers (OpenAI's, random weights), batch, precision and optimizer (Adam, fused), and
captions long enough to fill 77 tokens, which open_clip always computes. Ours includes what a run does
around it: pixels normalised on the device, gradient norm, the check for non-finite values, the clamp. The
limit is forward and backward of the towers with nothing around them. Rounds alternate all of them, so that
a busy machine slows them alike; medians of the rounds' ratios are reported. The loader reads made pictures
of 256 px a side, or those of ``--data``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import open_clip
import torch
from open_clip.loss import ClipLoss

from clinical_clip.data.pairs import PairSet, open_pairs
from clinical_clip.model.methods import clip
from clinical_clip.train.config import DataConfig, OptimConfig, RunConfig
from clinical_clip.train.data import Batch, PairDataset, PairLoader
from clinical_clip.train.distributed import World
from clinical_clip.train.forward import autocast
from clinical_clip.train.made import make_pairs
from clinical_clip.train.memory import keep_freed_memory
from clinical_clip.train.sampler import BatchSampler
from clinical_clip.train.step import Stepper

CAPTION = "An axial contrast-enhanced computed tomography image of the upper abdomen shows a mass. " * 8


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of the process's CPU time, which a busy machine does not stretch."""
    start, cpu = perf_counter(), process_time()
    run()
    return perf_counter() - start, process_time() - cpu


def config_of(towers: str, options: argparse.Namespace) -> RunConfig:
    return RunConfig(
        name=f"benchmark-{towers}",
        model=clip(towers, weights=None),
        data=DataConfig(batch_size=options.batch),
        optim=OptimConfig(lr=1e-6),
        precision=options.precision,
    )


def our_step(config: RunConfig, batch: Batch, world: World) -> Callable[[], object]:
    stepper = Stepper(config, config.model.build(seed=0).to(world.device).train(), world)
    return lambda: stepper([batch], lr_factor=1.0, step=0)


def bare_towers(config: RunConfig, batch: Batch, world: World) -> Callable[[], object]:
    model = config.model.build(seed=0).to(world.device).train()
    image = model.preprocess.normalise(batch.image_BHWC)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with autocast(world.device, config.precision):
            features = model(image, batch.tokens)
        (features[0].float().sum() + features[1].float().sum()).backward()

    return run


def open_clip_step(towers: str, config: RunConfig, batch: Batch, world: World) -> Callable[[], object]:
    model = open_clip.create_model(f"{towers}-quickgelu", load_weights=False).to(world.device).train()
    for layer in model.modules():  # the policy that is compared: running statistics
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)
    loss_of = ClipLoss()
    size = batch.image_BHWC.shape[1]
    image = torch.randn(len(batch), 3, size, size, device=world.device)
    tokens = open_clip.tokenize([CAPTION] * len(batch)).to(world.device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(world.device, config.precision):
            image_features, text_features, scale = model(image, tokens)
            loss = loss_of(image_features, text_features, scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        loss.item()

    return run


def loader_rate(pairs: PairSet, config: RunConfig, workers: int) -> float:
    """Pairs a second of the loader alone, its start left out."""
    model = config.model.build(seed=0)
    dataset = PairDataset(pairs, config=config.data, preprocessing=model.preprocess, seed=0)
    sampler = BatchSampler(length=len(dataset), batch_size=config.data.batch_size, seed=0)
    loader = PairLoader(dataset, sampler, tokens=model.text.tokens, workers=workers)
    batches = iter(loader)
    next(batches)
    start = perf_counter()
    count = sum(len(batch) for batch in batches)
    return count / (perf_counter() - start)


def benchmark(towers: str, pairs: PairSet, options: argparse.Namespace, world: World) -> None:
    config = config_of(towers, options)
    loader_config = replace(config, data=replace(config.data, batch_size=options.batch))
    dataset_model = config.model.build(seed=0)
    size = dataset_model.preprocess.size
    pixels = torch.randint(0, 256, (options.batch, size, size, 3), dtype=torch.uint8)
    batch = Batch(
        image_BHWC=pixels,
        tokens=dataset_model.tokenize([CAPTION] * options.batch),
        text_key_B=torch.arange(options.batch),
        index_B=torch.arange(options.batch),
        rejected=0,
    ).to(world.device)
    del dataset_model
    chunk = max(1, options.batch // 2)
    runs = {
        "ours": our_step(config, batch, world),
        "open_clip": open_clip_step(towers, config, batch, world),
        "gradcache": our_step(replace(config, gradcache_chunk=chunk), batch, world),
        "towers alone": bare_towers(config, batch, world),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
            print(f"{towers} {name:12} {options.batch / times[name][-1][0]:7.2f} pairs/s", flush=True)
    del runs

    def ratio(one: str, other: str) -> str:
        pairs_of_rounds = list(zip(times[one], times[other], strict=True))
        clock, cpu = (median(a[kind] / b[kind] for a, b in pairs_of_rounds) for kind in (0, 1))
        return f"{clock:.2f}" if world.device.type == "cuda" else f"{clock:.2f} ({cpu:.2f} by CPU time)"

    ours = options.batch / median(clock for clock, _ in times["ours"])
    print(
        f"{towers}, batch {options.batch}, {options.precision}, {torch.get_num_threads()} threads: "
        f"{ours:.2f} pairs/s"
    )
    print(f"  speed, of open_clip's (peer, bar .95):       {ratio('open_clip', 'ours')}")
    print(f"  speed, of the towers alone (limit):          {ratio('towers alone', 'ours')}")
    print(f"  GradCache's time, of the step's (bar 1.5):   {ratio('gradcache', 'ours')}")
    rate = loader_rate(pairs, loader_config, options.workers)
    print(
        f"  loader alone {rate:.0f} pairs/s with {options.workers} worker(s), "
        f"of the step's (bar 3): {rate / ours:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--towers", nargs="+", default=["RN50", "ViT-B-32"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as a run does; the peer gains as much
    world = World(rank=0, size=1, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        if options.data is None:
            pairs = make_pairs(Path(scratch), 512, size_px=256)
        else:
            opened = open_pairs(options.data, images=options.images)
            pairs = PairSet(name="benchmark", pairs=opened.pairs[:512])
        for towers in options.towers:
            benchmark(towers, pairs, options, world)


if __name__ == "__main__":
    main()
