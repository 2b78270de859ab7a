"""The tokenizer and the text encoder: every word of the captions, and a small UMT5."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from training.clips import (
    BACKGROUNDS,
    COLOURS,
    DRIFTS,
    MOTIONS,
    PATTERNS,
    PLACES,
    RADIUS,
    SHAPES,
)

TEXT_WIDTH = 96
SPECIAL = ("<pad>", "</s>", "<unk>")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows the words of the captions."""
    phrases = [
        *("a and on background at the drifting", *COLOURS, *BACKGROUNDS, *SHAPES, *RADIUS),
        *(*MOTIONS, *PLACES, *PATTERNS, *DRIFTS),
    ]
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def make_text_encoder(tokenizer: PreTrainedTokenizerFast, seed: int) -> UMT5EncoderModel:
    """A text encoder with random weights; it is trained together with the transformer."""
    torch.manual_seed(seed)
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_WIDTH,
            d_kv=24,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
