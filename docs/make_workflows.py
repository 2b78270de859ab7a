"""Write the ComfyUI pack's example workflows, in the format of ComfyUI's front end.

    python -m docs.make_workflows

A workflow is a list of nodes: its name here, its class, what its inputs are connected to, and its
widgets' values.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from stas.files import whole_file
from stas.method.config import STASConfig

FOLDER = Path(__file__).parents[1] / "comfyui" / "example_workflows"
POSITIVE = (
    "A fox runs through fresh snow at dawn, its fur lit from behind, the camera gliding beside it"
)
NEGATIVE = "static, blurry, distorted, watermark"
DEFAULT = STASConfig()
STEER = [
    *("auto", str(DEFAULT.blocks), DEFAULT.scale, DEFAULT.boundary, DEFAULT.start, DEFAULT.stop),
    *("both", DEFAULT.op, ",".join(DEFAULT.regions), DEFAULT.reference),
]

# By class: its inputs that are connected, in order, with their types, and its outputs.
CLASSES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "UNETLoader": ({}, {"MODEL": "MODEL"}),
    "CheckpointLoaderSimple": ({}, {"MODEL": "MODEL", "CLIP": "CLIP", "VAE": "VAE"}),
    "CLIPLoader": ({}, {"CLIP": "CLIP"}),
    "DualCLIPLoader": ({}, {"CLIP": "CLIP"}),
    "VAELoader": ({}, {"VAE": "VAE"}),
    "ModelSamplingSD3": ({"model": "MODEL"}, {"MODEL": "MODEL"}),
    "STASSteer": ({"model": "MODEL"}, {"MODEL": "MODEL"}),
    "CLIPTextEncode": ({"clip": "CLIP"}, {"CONDITIONING": "CONDITIONING"}),
    "FluxGuidance": ({"conditioning": "CONDITIONING"}, {"CONDITIONING": "CONDITIONING"}),
    "LTXVConditioning": (
        {"positive": "CONDITIONING", "negative": "CONDITIONING"},
        {"positive": "CONDITIONING", "negative": "CONDITIONING"},
    ),
    "EmptyHunyuanLatentVideo": ({}, {"LATENT": "LATENT"}),
    "EmptyLTXVLatentVideo": ({}, {"LATENT": "LATENT"}),
    "LTXVScheduler": ({"latent": "LATENT"}, {"SIGMAS": "SIGMAS"}),
    "BasicScheduler": ({"model": "MODEL"}, {"SIGMAS": "SIGMAS"}),
    "KSamplerSelect": ({}, {"SAMPLER": "SAMPLER"}),
    "RandomNoise": ({}, {"NOISE": "NOISE"}),
    "BasicGuider": ({"model": "MODEL", "conditioning": "CONDITIONING"}, {"GUIDER": "GUIDER"}),
    "KSampler": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
        },
        {"LATENT": "LATENT"},
    ),
    "KSamplerAdvanced": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
        },
        {"LATENT": "LATENT"},
    ),
    "SamplerCustom": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        },
        {"output": "LATENT", "denoised_output": "LATENT"},
    ),
    "SamplerCustomAdvanced": (
        {
            "noise": "NOISE",
            "guider": "GUIDER",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        },
        {"output": "LATENT", "denoised_output": "LATENT"},
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, {"IMAGE": "IMAGE"}),
    "CreateVideo": ({"images": "IMAGE"}, {"VIDEO": "VIDEO"}),
    "SaveVideo": ({"video": "VIDEO"}, {}),
}

Wires = dict[str, tuple[str, str]]
Node = tuple[str, str, Wires, list[Any]]  # name here, class, wires, widgets


def tail(latent: tuple[str, str], vae: tuple[str, str], fps: int, name: str) -> list[Node]:
    """From latents to a saved video."""
    return [
        ("decode", "VAEDecode", {"samples": latent, "vae": vae}, []),
        ("video", "CreateVideo", {"images": ("decode", "IMAGE")}, [fps]),
        ("save", "SaveVideo", {"video": ("video", "VIDEO")}, [f"video/{name}", "auto", "auto"]),
    ]


def prompts(clip: tuple[str, str]) -> list[Node]:
    return [
        ("positive", "CLIPTextEncode", {"clip": clip}, [POSITIVE]),
        ("negative", "CLIPTextEncode", {"clip": clip}, [NEGATIVE]),
    ]


TEXT: Wires = {
    "positive": ("positive", "CONDITIONING"),
    "negative": ("negative", "CONDITIONING"),
}
LATENT: Wires = {"latent_image": ("latent", "LATENT")}
WAN_CLIP: Node = (
    "clip", "CLIPLoader", {}, ["umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan", "default"],
)  # fmt: skip

WORKFLOWS: dict[str, list[Node]] = {
    "wan2.1_t2v_stas": [
        ("model", "UNETLoader", {}, ["wan2.1_t2v_1.3B_fp16.safetensors", "default"]),
        WAN_CLIP,
        ("vae", "VAELoader", {}, ["wan_2.1_vae.safetensors"]),
        ("shift", "ModelSamplingSD3", {"model": ("model", "MODEL")}, [8.0]),
        ("steer", "STASSteer", {"model": ("shift", "MODEL")}, STEER),
        *prompts(("clip", "CLIP")),
        ("latent", "EmptyHunyuanLatentVideo", {}, [832, 480, 81, 1]),
        (
            "sampler",
            "KSampler",
            {"model": ("steer", "MODEL"), **TEXT, **LATENT},
            [0, "fixed", 30, 6.0, "uni_pc", "simple", 1.0],
        ),
        *tail(("sampler", "LATENT"), ("vae", "VAE"), 16, "wan2.1_stas"),
    ],
    "wan2.2_t2v_two_experts_stas": [
        ("high", "UNETLoader", {}, ["wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "default"]),
        ("low", "UNETLoader", {}, ["wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors", "default"]),
        WAN_CLIP,
        ("vae", "VAELoader", {}, ["wan_2.1_vae.safetensors"]),
        ("shift high", "ModelSamplingSD3", {"model": ("high", "MODEL")}, [8.0]),
        ("shift low", "ModelSamplingSD3", {"model": ("low", "MODEL")}, [8.0]),
        ("steer high", "STASSteer", {"model": ("shift high", "MODEL")}, STEER),
        ("steer low", "STASSteer", {"model": ("shift low", "MODEL")}, STEER),
        *prompts(("clip", "CLIP")),
        ("latent", "EmptyHunyuanLatentVideo", {}, [832, 480, 81, 1]),
        (
            "first",
            "KSamplerAdvanced",
            {"model": ("steer high", "MODEL"), **TEXT, **LATENT},
            ["enable", 0, "fixed", 20, 3.5, "euler", "simple", 0, 10, "enable"],
        ),
        (
            "second",
            "KSamplerAdvanced",
            {"model": ("steer low", "MODEL"), **TEXT, "latent_image": ("first", "LATENT")},
            ["disable", 0, "fixed", 20, 3.5, "euler", "simple", 10, 10000, "disable"],
        ),
        *tail(("second", "LATENT"), ("vae", "VAE"), 16, "wan2.2_stas"),
    ],
    "hunyuan_video_t2v_stas": [
        ("model", "UNETLoader", {}, ["hunyuan_video_t2v_720p_bf16.safetensors", "default"]),
        (
            "clip",
            "DualCLIPLoader",
            {},
            [
                "clip_l.safetensors",
                "llava_llama3_fp8_scaled.safetensors",
                "hunyuan_video",
                "default",
            ],
        ),
        ("vae", "VAELoader", {}, ["hunyuan_video_vae_bf16.safetensors"]),
        ("shift", "ModelSamplingSD3", {"model": ("model", "MODEL")}, [7.0]),
        ("steer", "STASSteer", {"model": ("shift", "MODEL")}, STEER),
        prompts(("clip", "CLIP"))[0],
        ("guidance", "FluxGuidance", {"conditioning": ("positive", "CONDITIONING")}, [6.0]),
        ("latent", "EmptyHunyuanLatentVideo", {}, [848, 480, 73, 1]),
        ("noise", "RandomNoise", {}, [0, "fixed"]),
        (
            "guider",
            "BasicGuider",
            {"model": ("steer", "MODEL"), "conditioning": ("guidance", "CONDITIONING")},
            [],
        ),
        ("euler", "KSamplerSelect", {}, ["euler"]),
        ("sigmas", "BasicScheduler", {"model": ("steer", "MODEL")}, ["simple", 20, 1.0]),
        (
            "sampler",
            "SamplerCustomAdvanced",
            {
                "noise": ("noise", "NOISE"),
                "guider": ("guider", "GUIDER"),
                "sampler": ("euler", "SAMPLER"),
                "sigmas": ("sigmas", "SIGMAS"),
                **LATENT,
            },
            [],
        ),
        *tail(("sampler", "output"), ("vae", "VAE"), 24, "hunyuan_stas"),
    ],
    "ltx_video_t2v_stas": [
        ("model", "CheckpointLoaderSimple", {}, ["ltx-video-2b-v0.9.5.safetensors"]),
        ("clip", "CLIPLoader", {}, ["t5xxl_fp16.safetensors", "ltxv", "default"]),
        ("steer", "STASSteer", {"model": ("model", "MODEL")}, STEER),
        *prompts(("clip", "CLIP")),
        (
            "text",
            "LTXVConditioning",
            {"positive": ("positive", "CONDITIONING"), "negative": ("negative", "CONDITIONING")},
            [25.0],
        ),
        ("latent", "EmptyLTXVLatentVideo", {}, [768, 512, 97, 1]),
        (
            "sigmas",
            "LTXVScheduler",
            {"latent": ("latent", "LATENT")},
            [30, 2.05, 0.95, True, 0.1],
        ),
        ("euler", "KSamplerSelect", {}, ["euler"]),
        (
            "sampler",
            "SamplerCustom",
            {
                "model": ("steer", "MODEL"),
                "positive": ("text", "positive"),
                "negative": ("text", "negative"),
                "sampler": ("euler", "SAMPLER"),
                "sigmas": ("sigmas", "SIGMAS"),
                **LATENT,
            },
            [True, 0, "fixed", 3.0],
        ),
        *tail(("sampler", "output"), ("model", "VAE"), 25, "ltx_stas"),
    ],
}


def places(nodes: list[Node]) -> dict[str, tuple[list[int], list[int]]]:
    """Position and size of each node: left of the first that takes what it gives, loaders below."""
    column: dict[str, int] = {}
    for name, *_ in reversed(nodes):
        takers = [column[taker] for taker, _, wires, _ in nodes if name in dict(wires.values())]
        column[name] = min(takers, default=0) - 1
    bottom: dict[int, int] = defaultdict(lambda: 80)
    found = {}
    for name, cls, _, widgets in sorted(nodes, key=lambda node: not node[2]):
        rows = 7 if cls == "CLIPTextEncode" else max(map(len, CLASSES[cls])) + len(widgets)
        size = [330, 30 + 25 * rows]
        left = 60 + 380 * (column[name] - min(column.values()))
        found[name] = ([left, bottom[column[name]]], size)
        bottom[column[name]] += size[1] + 60
    return found


def workflow(nodes: list[Node]) -> dict[str, Any]:
    """Nodes as ComfyUI's front end keeps them, in columns from left to right."""
    number = {name: place for place, (name, *_) in enumerate(nodes, 1)}
    placed = places(nodes)
    links: list[list[Any]] = []
    made: dict[str, dict[str, Any]] = {}
    for name, cls, wires, widgets in nodes:
        inputs, outputs = CLASSES[cls]
        made[name] = {
            "id": number[name],
            "type": cls,
            "pos": placed[name][0],
            "size": placed[name][1],
            "flags": {},
            "order": number[name] - 1,
            "mode": 0,
            "inputs": [{"name": each, "type": kind, "link": None} for each, kind in inputs.items()],
            "outputs": [
                {"name": each, "type": kind, "links": [], "slot_index": slot}
                for slot, (each, kind) in enumerate(outputs.items())
            ],
            "properties": {"Node name for S&R": cls},
            "widgets_values": widgets,
        }
        for slot, each in enumerate(made[name]["inputs"]):
            source, output = wires[each["name"]]
            start = list(CLASSES[made[source]["type"]][1]).index(output)
            each["link"] = len(links) + 1
            made[source]["outputs"][start]["links"].append(each["link"])
            links.append([each["link"], number[source], start, number[name], slot, each["type"]])
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": list(made.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def main() -> None:
    for name, nodes in WORKFLOWS.items():
        with whole_file(FOLDER / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(workflow(nodes), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
