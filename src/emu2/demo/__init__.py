"""`emu2 demo`: what a trained model does, shown on scenes and things that its training never showed. Nothing trains."""
