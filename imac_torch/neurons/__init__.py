"""Activation circuits: what they do at their two nodes."""
