"""What every other part stands on: nothing here knows of circuits, networks or files of either."""
