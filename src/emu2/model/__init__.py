"""The network: vision tower, bridge, slots, losses, the transformers classes and visual generation."""
