"""Training of DINO adapters on a frozen FLUX: ``loop.train(config)``, or ``loop.Trainer`` on models already loaded."""
