"""Training with Lightning's Trainer: modules, data modules, callbacks and run folders."""
