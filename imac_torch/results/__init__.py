"""What solvers give back: solutions, energies, latencies, waveforms. They know no solver."""
