"""Reading YAML strictly, and the recipes that ship."""
