"""From software weights to pairs of memristor conductances."""
