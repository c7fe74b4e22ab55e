"""What a run costs, and on which machine."""
