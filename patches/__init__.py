"""The one place that knows ComfyUI's model patcher: adapters on weights, on activations, in hooks, by bypass."""
