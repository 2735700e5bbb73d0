"""The network in time: transients, latency and energy."""
