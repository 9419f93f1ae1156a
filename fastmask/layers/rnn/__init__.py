"""The recurrent layers, and the wrappers that run layers in both directions or step by step."""
