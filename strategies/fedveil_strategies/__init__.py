"""What runs at the coordinator: the round loop and the aggregation rules."""
