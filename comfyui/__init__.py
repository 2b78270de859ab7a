"""STAS for ComfyUI: the nodes of `stas.comfyui`, as a folder that goes into custom_nodes."""

try:
    import stas  # noqa: F401  # only to be told here, in plain words, when it is missing
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "The STAS nodes need the package stas in ComfyUI's Python environment: install it from a "
        "clone of its repository, as README.md of this folder says.",
        name=error.name,
    ) from error

from stas.comfyui.nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
