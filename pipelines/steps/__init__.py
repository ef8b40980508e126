"""How work is declared, decided, done and recorded; what a stage may ask for."""
