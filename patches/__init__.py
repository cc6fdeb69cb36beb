"""The one place that knows ComfyUI's model patcher: weight adapters, layer names, applying."""
