"""What a training is asked to do: the settings, the presets, the optimizers, which layers."""
