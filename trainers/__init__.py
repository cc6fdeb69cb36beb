"""Training adapters on ComfyUI's own model object, without a second copy of it."""
