"""The scripts of ``examples/`` in a short form, the same on fastmask and on Keras."""
