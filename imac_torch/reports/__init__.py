"""What an evaluation shows: figures, analysis per layer, area, pages."""
