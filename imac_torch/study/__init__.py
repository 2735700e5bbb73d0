"""What is asked of a network: decks, engines, evaluation, Monte Carlo, verification."""
