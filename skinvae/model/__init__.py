"""pixels -> nats: the VAE, its bounds, the noise of its draws. Pure torch; no files, no Ray."""
