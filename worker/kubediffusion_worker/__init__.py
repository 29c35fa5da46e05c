"""The worker: owns a device, a model and the running generations."""
