"""Predict with a trained model in several processes, on one machine or on a cluster of Ray.

    python examples/predict_ray.py [--workers 2] [--threads 1] [--address HOST:PORT] [--check]

The model of tagging.py is trained here on some rows and tags the others in workers. A model is pickled like any
Python object: Ray stores it once on each machine, and the workers there share its weights, read-only. Each worker
sets its number of threads, so that workers x threads is the number of CPUs in use. Needs ``pip install ray``, and
fastmask wherever a worker runs.
"""

import argparse
import os
import time

import numpy as np
import tagging

import fastmask as fm


class Predictor:
    """A model in a worker."""

    def __init__(self, model, threads):
        fm.set_num_threads(threads)
        self.model = model

    def predict(self, x):
        """Return what the model predicts."""
        return self.model.predict(x, verbose=0)

    def about(self):
        """Return the process and the number of its threads."""
        return os.getpid(), fm.get_num_threads()


def predict(ray, model, x, workers, threads, rows):
    """Predict in workers, some rows at a time; return the predictions in the order of x, and what workers say."""
    stored = ray.put(model)
    actors = [ray.remote(num_cpus=threads)(Predictor).remote(stored, threads) for _ in range(workers)]
    about = ray.get([actor.about.remote() for actor in actors])
    parts = [x[start : start + rows] for start in range(0, len(x), rows)]
    start = time.perf_counter()
    made = ray.util.ActorPool(actors).map(lambda actor, part: actor.predict.remote(part), parts)
    result = np.concatenate(list(made))
    print(f"{len(x) / (time.perf_counter() - start):,.0f} rows/s")
    return result, about


def train(files):
    """Return a trained tagger, and words and tags of rows that it has not seen."""
    fm.utils.set_random_seed(0)
    x, y = tagging.data(fm, tagging.read(files))
    model, seen = tagging.build(fm), len(x) // 2
    model.fit(x[:seen], y[:seen], epochs=1, verbose=0)
    return model, x[seen:], y[seen:]


def main(arguments=None):
    """Train, predict in workers and return the accuracy per word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20, help="modules of the standard library to read")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--rows", type=int, default=512, help="rows that a worker gets at a time")
    parser.add_argument("--address", help="a running cluster; by default Ray is started on this machine")
    parser.add_argument("--check", action="store_true", help="predict in this process as well, and compare")
    options = parser.parse_args(arguments)
    if min(options.files, options.workers, options.threads, options.rows) < 1:
        parser.error("--files, --workers, --threads and --rows must be 1 or more")
    try:
        import ray
        import ray.util
    except ImportError:
        raise SystemExit("predict_ray.py needs Ray: pip install ray") from None
    model, x, y = train(options.files)
    cpus = None if options.address else options.workers * options.threads
    ray.init(address=options.address or "local", num_cpus=cpus, include_dashboard=None if options.address else False)
    made, about = predict(ray, model, x, options.workers, options.threads, options.rows)
    ray.shutdown()
    for process, threads in about:
        print(f"worker {process}: {threads} threads")
    if options.check:
        same = np.array_equal(made, model.predict(x, verbose=0))
        print(f"the same bits as in one process: {same}")
    accuracy = (made.argmax(-1) == y)[x != 0].mean()
    print(f"accuracy per word: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
