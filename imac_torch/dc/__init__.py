"""The DC solution: loaded neurons, layer after layer; the native engine."""
