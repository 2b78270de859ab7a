"""STAS on one forward's tokens: pure torch, knowing no hook system and no model."""
