"""STAS for ComfyUI: the nodes of `stas.comfyui`, as a folder that goes into custom_nodes."""

from stas.comfyui.nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
