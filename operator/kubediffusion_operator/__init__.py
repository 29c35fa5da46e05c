"""The Kubernetes operator for DiffusionWorker resources."""
