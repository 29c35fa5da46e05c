"""Links: how the engine talks to one worker, whatever lies between them."""
