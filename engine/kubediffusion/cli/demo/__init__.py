"""`kubediffusion demo`: an engine is killed in mid-generation, and nothing gets lost."""
