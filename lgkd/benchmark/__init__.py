"""How fast a training is, what it costs, and against a plain loop: what `lgkd bench` measures."""
