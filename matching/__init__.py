"""Which tensors of an adapter file change which weights of a model, and which are left."""
