"""What the demo model can do: one module per skill."""
