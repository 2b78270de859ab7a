"""Attaching to diffusers' transformers and pipelines."""
