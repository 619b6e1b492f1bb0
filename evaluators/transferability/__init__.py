"""Transfer of adversarial images between networks."""
