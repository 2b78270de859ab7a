"""A node pack for the tests: a tiny random Wan, its prompt, and latents as pictures, no weights."""

from __future__ import annotations

import importlib.util
import os

import comfy.ops
import torch
from comfy_api.latest import ComfyExtension, io

# ComfyUI has a package `tests` of its own, so the models are found by their file.
_spec = importlib.util.spec_from_file_location("stas_zoo", os.environ["STAS_ZOO"])
zoo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(zoo)


class TinyModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STASTinyModel", category="test", inputs=[], outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls):
        return io.NodeOutput(zoo.load(zoo.wan(comfy.ops.disable_weight_init)))


class TinyText(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STASTinyText",
            category="test",
            inputs=[io.Int.Input("seed", default=7)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed):
        generator = torch.Generator().manual_seed(seed)
        return io.NodeOutput([[torch.randn(1, 5, 4096, generator=generator), {}]])


class TinyImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STASTinyImages",
            category="test",
            inputs=[io.Latent.Input("latent")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, latent):
        frames = latent["samples"][0, :3].permute(1, 2, 3, 0).sigmoid()
        frames = frames.repeat_interleave(8, 1).repeat_interleave(8, 2)
        return io.NodeOutput(frames.contiguous())


class TinyExtension(ComfyExtension):
    async def get_node_list(self):
        return [TinyModel, TinyText, TinyImages]


async def comfy_entrypoint():
    return TinyExtension()
