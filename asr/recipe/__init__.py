"""The schema of recipes, and the catalogue of shipped recipes."""
