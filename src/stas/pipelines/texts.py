"""What of a prompt a pipeline's text encoders read."""

from __future__ import annotations

from typing import Any

from transformers import CLIPTokenizer, CLIPTokenizerFast, PreTrainedTokenizerBase


def unread(pipeline: Any, text: str, length: int | None) -> str:
    """The end of a text that no text encoder of a pipeline reads; "" where one reads all of it.

    Args:
        pipeline: A diffusers pipeline.
        text: A prompt.
        length: The `max_sequence_length` of its call, which CLIP does not follow; None without one.

    Example:
        >>> from stas import load_pipeline
        >>> unread(load_pipeline("bundled").pipeline, "a red circle moving right", 4)
        'moving right'
    """
    shortest: str | None = None
    for part in getattr(pipeline, "components", {}).values():
        if not isinstance(part, PreTrainedTokenizerBase):
            continue
        limit = part.model_max_length
        if length is not None and not isinstance(part, CLIPTokenizer | CLIPTokenizerFast):
            limit = min(limit, length)
        tokens = part(text, add_special_tokens=False, verbose=False)["input_ids"]
        kept = limit - part.num_special_tokens_to_add()
        rest = part.decode(tokens[kept:], skip_special_tokens=True) if len(tokens) > kept else ""
        if shortest is None or len(rest) < len(shortest):
            shortest = rest
    return shortest or ""
