"""Adapter mathematics and adapter files: torch and safetensors only, no ComfyUI."""
