"""Train the bundled model from nothing: VAE, judge, latents, transformer, export, evaluation.

    python -m training --recipe gpu --output runs/bundled
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m training --recipe cpu --output runs/cpu

Each part is kept in the output folder when it is done, and a part in work once a minute: the same
command goes on where it was stopped. The finished pipeline is `OUTPUT/model`, its evaluation
`OUTPUT/results.json` with `OUTPUT/contact-sheet.png` and `OUTPUT/videos.webp`; the transformer's
weights at steps along the way stay for `training.over_training`.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.distributed as dist
import transformers
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from stas.files import whole_file
from training.classifier import Classifier, ClassifierObjective
from training.evaluate import PLAIN, evaluate
from training.export import export, make_pipeline, weights_hash, write_json, write_profile
from training.loop import Objective, log, rank, snapshot_steps, start_processes, train
from training.recipe import RECIPES, Recipe, Stage
from training.transformer import FlowMatching, encode_clips
from training.vae import VAEObjective, make_vae, reconstruction_psnr

# The parts in order, each with what it needs and itself.
NEEDS = {
    "vae": ("vae",),
    "classifier": ("vae", "classifier"),
    "latents": ("vae", "latents"),
    "transformer": ("vae", "latents", "transformer"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--output", type=Path, default=Path("runs/bundled"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--only",
        choices=NEEDS,
        help="make this part and those that it needs; the others can be made "
        "at the same time elsewhere",
    )
    options = parser.parse_args()
    try:
        recipe = RECIPES[options.recipe].with_values(options.set)
    except ValueError as error:
        parser.error(str(error))
    start_processes()
    run(recipe, options.output, torch.device(options.device), only=options.only)


def run(recipe: Recipe, output: Path, device: torch.device, *, only: str | None = None) -> None:
    """Every part in order, each skipped when it is done already.

    Args:
        recipe: What is trained.
        output: The folder of the parts.
        device: Where.
        only: Stop when this part and those that it needs are done.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    output.mkdir(parents=True, exist_ok=True)
    wanted = NEEDS.get(only, tuple(NEEDS))
    seconds: dict[str, float] = {}

    def part(
        name: str, module: nn.Module, stage: Stage, objective: Objective, **options: Any
    ) -> None:
        path = output / f"{name}.safetensors"
        if not path.is_file():
            took = train(name, {name: module}, stage, objective, output, **options)
            if rank() == 0:
                with whole_file(path) as temporary:
                    save_model(module, str(temporary), {"seconds": f"{took:.1f}"})
        else:
            load_model(module, path, device=str(device))
        if rank() == 0:
            seconds[name] = seconds_of(path)
        module.eval().requires_grad_(False)

    vae = make_vae(recipe).to(device)
    part("vae", vae, recipe.vae, VAEObjective(vae, recipe, device))
    psnr, per_frame = reconstruction_psnr(vae, recipe, device, clips=64, split="held-out")
    log(f"vae: {psnr:.2f} dB, per frame {' '.join(f'{value:.1f}' for value in per_frame)}")
    judge = Classifier().to(device)
    if "classifier" in wanted:
        objective = ClassifierObjective(judge, vae, recipe, device)
        part("classifier", judge, recipe.classifier, objective)
    if "latents" in wanted:
        path = output / f"latents-{rank()}.safetensors"
        latents = encode_clips(vae, recipe, device, path, clips=recipe.clips)
        seconds["latents"] = seconds_of(path)
    if "transformer" in wanted:
        matching = FlowMatching.from_nothing(recipe, latents)
        snapshots = snapshot_steps(recipe.transformer.steps)
        part("transformer", matching.networks, recipe.transformer, matching, snapshots=snapshots)
        matching.restore()
    if only is not None or rank() > 0:
        _leave()
        return

    model = output / "model"
    pipeline = make_pipeline(
        vae, matching.text_encoder, matching.tokenizer, matching.transformer, latents
    )
    export(model, recipe, pipeline)
    started = time.monotonic()
    results, stats = evaluate(model, judge, device, videos=recipe.videos, pictures=output)
    seconds["evaluation"] = round(time.monotonic() - started, 1)
    write_profile(model, stats, dict(pipeline.transformer.config), recipe.videos)
    results["vae"] = {
        "psnr": round(psnr, 2),
        "psnr per pixel frame": [round(value, 2) for value in per_frame],
    }
    results["recipe"] = dataclasses.asdict(recipe)
    results["seconds"] = seconds
    results["sha256 of the weights"] = weights_hash(model)
    results["made with"] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    write_json(output / "results.json", results)
    for label, figures in results["held-out captions"][PLAIN]["generated"].items():
        log(f"{label}: {figures['share']:.1%} right, chance {figures['chance']:.1%}")
    log(f"the model is in {model}, its results in {output / 'results.json'}")
    _leave()


def seconds_of(path: Path) -> float:
    """How long a part took, all its starts together."""
    with safe_open(path, "pt") as file:
        return float(file.metadata()["seconds"])


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
