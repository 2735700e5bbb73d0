"""Data: labelled images by name, files of IMAC-Sim, checks of batches."""
