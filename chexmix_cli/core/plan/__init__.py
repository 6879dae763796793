"""Will it fit, and how long will it take: plans measured on cut-down models before anything large is loaded."""
