"""ComfyUI's nodes: the method of `stas.method`, attached to ComfyUI's models."""
