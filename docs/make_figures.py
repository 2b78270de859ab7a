"""Make the pictures of docs/figures.md on the bundled model: the paper's figures, one file each.

python -m docs.make_figures
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

import stas
from stas.assets import BUNDLED, prompt_list
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.prompts import read_prompts
from stas.studies.figures import draw_first_frames, draw_frames, draw_transitions

FOLDER = Path(__file__).parent / "images/figures"
STEPS = 10  # of 30, so that all is made in a few minutes of one core
RECORDED = 6
PROMPT, SEED = "a red circle moving right on a blue background", 0
DISRUPTED = ("off", "zero", "mean", "scale-all", "scale-first-frame", "max-first-frame")


def recorded(loaded: LoadedPipeline, frames: int | None) -> stas.ActivationStats:
    """Statistics of the middle block, with its maps."""
    prompts = [prompt.text for prompt in read_prompts(None, prompt_list(BUNDLED))[:RECORDED]]
    with stas.record(loaded, blocks="middle", map_blocks="middle") as recording:
        for seed, prompt in enumerate(prompts):
            call = {"prompt": prompt, "num_inference_steps": STEPS, "num_frames": frames}
            loaded.generate(loaded.arguments(call), seed)
    return recording.stats


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    loaded = stas.load_pipeline(device="cpu")
    video, image = recorded(loaded, None), recorded(loaded, 1)
    figures = {
        1: stas.plots.models({"17 frames": video, "one frame": image}),
        2: stas.plots.steps(video, name=BUNDLED),
    }
    with TemporaryDirectory() as folder:
        call = {"num_inference_steps": STEPS}
        for number, settings in {3: DISRUPTED, 4: ("off", "boundary"), 5: ("off", "on")}.items():
            run = stas.compare(
                loaded,
                PROMPT,
                f"{folder}/{number}",
                settings=settings,
                seeds=[SEED],
                arguments=call,
            )
            (sample,) = run.samples
            if number == 3:
                figures[number] = draw_first_frames(run, sample, "sharpness, first frame")
            elif number == 4:
                figures[number] = draw_transitions(run, sample)
            else:
                figures[number] = draw_frames(run, sample)
    for number, figure in figures.items():
        path = FOLDER / f"figure-{number}.png"
        figure.savefig(path)
        with Image.open(path) as picture:  # 128 colours are a third of the bytes
            small = picture.convert("RGB").quantize(128)
        small.save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
