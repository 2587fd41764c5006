"""DINO features inside FLUX's attention."""
