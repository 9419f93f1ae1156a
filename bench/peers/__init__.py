"""fastmask beside PyTorch, Keras, ONNX Runtime and NumPy, on the same weights and data.

    python -m bench.peers [--section layer ...] [--full] [--report]

Every library runs in a process of its own (`worker`), with its own threads. The `conductor` gives a case to all
of them, compares what comes out, and then times them in turn. `shapes` says what is timed, `results` keeps it,
`report` and `plots` write ``docs/benchmarks/``.
"""
