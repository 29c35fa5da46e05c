"""The engine library: drives diffusion workers that outlive it."""
