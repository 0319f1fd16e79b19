"""What is served: references, hubs, folders, GGUF conversion, and the synthetic proof model."""
