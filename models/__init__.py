"""What is read of a ComfyUI model: layer names, base weights, the fingerprint. Nothing is put on it here."""
