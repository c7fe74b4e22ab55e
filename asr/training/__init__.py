"""Training on Lightning's Trainer: modules, data modules, callbacks, and what joins them."""
