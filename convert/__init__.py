"""From adapters to something else: LoRA files, adapters out of two models, what an adapter holds."""
