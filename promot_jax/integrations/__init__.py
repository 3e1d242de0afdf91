"""Other trainers that drive our network. Nothing here is needed to run promot_jax by itself."""
