"""One step: the frozen network with what is trained on it, the loss, the gradients, their repair and checks."""
