"""What is learned: pictures as latents, captions, the order of both."""
