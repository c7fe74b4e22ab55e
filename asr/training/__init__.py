"""Training on Lightning's Trainer: modules, data modules, callbacks, and the run that joins them."""
