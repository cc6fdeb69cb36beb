"""Conversions of adapters: to LoRA files, out of two models, and into a list of what an adapter holds."""
