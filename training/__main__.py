"""Train the bundled model from nothing: VAE, judge, latents, transformer, export, evaluation.

    python -m training --recipe gpu --output runs/bundled
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m training --recipe cpu --output runs/cpu

Each part is kept in the output folder when it is done, and a part in work once a minute: the same
command goes on where it was stopped. The finished pipeline is `OUTPUT/model`, its evaluation
`OUTPUT/results.json` and `OUTPUT/contact-sheet.png`.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from pathlib import Path

import diffusers
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_model, save_model
from torch import nn

from training.classifier import Classifier, ClassifierObjective
from training.evaluate import evaluate
from training.export import export, weights_hash, write_json, write_profile
from training.loop import Objective, log, rank, start_processes, train
from training.recipe import RECIPES, Recipe, Stage
from training.text import make_text_encoder, make_tokenizer
from training.transformer import FlowMatching, encode_clips, make_transformer
from training.vae import VAEObjective, make_vae, reconstruction_psnr

STAGES = ("vae", "classifier", "transformer")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--output", type=Path, default=Path("runs/bundled"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--until", choices=STAGES, help="stop after this part")
    options = parser.parse_args()
    try:
        recipe = RECIPES[options.recipe].with_values(options.set)
    except ValueError as error:
        parser.error(str(error))
    start_processes()
    run(recipe, options.output, torch.device(options.device), until=options.until)


def run(recipe: Recipe, output: Path, device: torch.device, *, until: str | None = None) -> None:
    """Every part in order, each skipped when it is done already."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    output.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    def part(name: str, module: nn.Module, stage: Stage, objective: Objective) -> None:
        started = time.monotonic()
        path = output / f"{name}.safetensors"
        if path.is_file():
            load_model(module, path, device=str(device))
        else:
            train(name, {name: module}, stage, objective, output)
            if rank() == 0:
                save_model(module, str(path))
        module.eval().requires_grad_(False)
        seconds[name] = round(time.monotonic() - started, 1)

    vae = make_vae(recipe).to(device)
    part("vae", vae, recipe.vae, VAEObjective(vae, recipe, device))
    psnr, per_frame = reconstruction_psnr(vae, recipe, device, clips=64, split="held-out")
    log(f"vae: {psnr:.2f} dB, per frame {' '.join(f'{value:.1f}' for value in per_frame)}")
    if until == "vae":
        return
    judge = Classifier().to(device)
    part("classifier", judge, recipe.classifier, ClassifierObjective(judge, vae, recipe, device))
    if until == "classifier":
        return

    started = time.monotonic()
    latents = encode_clips(vae, recipe, device, output / f"latents-{rank()}.safetensors")
    seconds["latents"] = round(time.monotonic() - started, 1)
    tokenizer = make_tokenizer()
    transformer = make_transformer(recipe).to(device)
    text_encoder = make_text_encoder(tokenizer, recipe.seed).to(device)
    both = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder})
    matching = FlowMatching(transformer, text_encoder, tokenizer, latents, recipe)
    if device.type == "cuda":
        transformer.compile_repeated_blocks()
    part("transformer", both, recipe.transformer, matching)
    matching.restore()
    if until == "transformer" or rank() > 0:
        _leave()
        return

    model = output / "model"
    export(model, recipe, vae, text_encoder, tokenizer, transformer, latents)
    started = time.monotonic()
    results = evaluate(
        model, judge, device, videos=recipe.videos, sheet=output / "contact-sheet.png"
    )
    seconds["evaluation"] = round(time.monotonic() - started, 1)
    write_profile(
        model,
        results.pop("magnitudes"),
        dict(transformer.config),
        f"mean |h| over {recipe.videos} videos of held-out captions, all steps and branches",
    )
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
    for label, figures in results["generated, held-out captions"].items():
        log(f"{label}: {figures['share']:.1%} right, chance {figures['chance']:.1%}")
    log(f"the model is in {model}, its results in {output / 'results.json'}")
    _leave()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
