"""Threads, forks, Ctrl-C and the end of the interpreter, all while models are at work."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import children
from helpers.runs import environment

import fastmask as fm
from fastmask import layers, threads

THREADS = 8
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks and signals of POSIX")


def make(number):
    """A model without random numbers in its training; all have other shapes."""
    fm.utils.set_random_seed(number)
    kinds = (layers.LSTM, layers.GRU, layers.SimpleRNN, lambda n: layers.Bidirectional(layers.LSTM(n)))
    model = fm.Sequential([
        layers.Masking(input_shape=(None, 5 + number)), kinds[number % 4](20 + 3 * number), layers.Dense(2),
    ])  # fmt: skip
    model.compile("adam", "mse")
    return model


def data(number):
    rng = np.random.default_rng(number)
    x = rng.standard_normal((40, 30, 5 + number), np.float32)
    x[np.arange(30) >= rng.integers(1, 31, (40, 1))] = 0
    return x, rng.standard_normal((40, 2), np.float32)


def work(model, number):
    """Train and predict by turns; return all results."""
    x, y = data(number)
    found = [model.predict(x, verbose=0)]
    for _ in range(3):
        model.fit(x, y, shuffle=False, batch_size=16, verbose=0)
        found += [model.predict(x, batch_size=9, verbose=0), *model.get_weights()]
    return found


def together(functions):
    """Run functions at the same time, each in a thread; return their results, or raise their first error."""
    results, gate = [None] * len(functions), threading.Barrier(len(functions))

    def run(i):
        gate.wait()
        try:
            results[i] = functions[i]()
        except BaseException as error:
            results[i] = error

    started = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.fixture
def changing_threads(set_threads):
    """The number of threads changes all the time."""
    stop = threading.Event()

    def change():
        rng = np.random.default_rng(0)
        while not stop.wait(0.001):
            set_threads(int(rng.integers(1, 9)))

    thread = threading.Thread(target=change)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_threads_with_models_of_their_own(changing_threads):
    expected = [work(make(number), number) for number in range(THREADS)]
    models = [make(number) for number in range(THREADS)]
    found = together([lambda n=n: work(models[n], n) for n in range(THREADS)])
    for a, b in zip(expected, found, strict=True):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("number", range(4))
def test_threads_with_one_model(number, changing_threads):
    x, _ = data(number)
    expected, model = make(number).predict(x, verbose=0), make(number)

    def predict(first):
        rows = np.roll(np.arange(len(x)), first)
        return [(rows, model.predict(x[rows], batch_size=n, verbose=0)) for n in (7, 40, 13)]

    for results in together([lambda n=n: predict(n) for n in range(THREADS)]):
        for rows, found in results:
            np.testing.assert_array_equal(found, expected[rows])


@pytest.mark.parametrize("number", range(4))
@pytest.mark.usefixtures("packed_weights", "changing_threads")
def test_no_prediction_is_from_weights_before(number):
    """Threads predict all the time while one changes the weights; what it predicts itself is always of the new ones."""
    x, _ = data(number)
    model, other = make(number), make(number)
    first = model.get_weights()
    weights = [[w + np.float32(0.01 * k) for w in first] for k in range(12)]
    expected = []
    for values in weights:
        other.set_weights(values)
        expected.append(other.predict(x, verbose=0))
    stop = threading.Event()

    def predict():
        while not stop.is_set():
            model.predict(x, batch_size=40, verbose=0)

    def change():
        try:
            for values, y in zip(weights, expected, strict=True):
                model.set_weights(values)
                for _ in range(3):
                    np.testing.assert_array_equal(model.predict(x, verbose=0), y)
        finally:
            stop.set()

    together([change, *[predict for _ in range(THREADS - 1)]])
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected[-1])


FIRST_USE = """
import threading
import numpy as np

gate, errors, found = threading.Barrier(8), [], []

def work():
    gate.wait()
    try:
        import fastmask as fm
        from fastmask import layers
        ones = fm.initializers.Constant(0.1)
        lstm = layers.LSTM(30, kernel_initializer=ones, recurrent_initializer=ones, input_shape=(None, 3))
        found.append(fm.Sequential([lstm]).predict(np.ones((5, 60, 3), np.float32), verbose=0))
    except BaseException as error:
        errors.append(error)

started = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in started]
[thread.join() for thread in started]
assert not errors, errors
assert all(np.array_equal(found[0], value) for value in found), found
"""


def test_the_first_use_may_be_in_eight_threads():
    run(FIRST_USE)


def run(code, *arguments, **options):
    """Run code in a new Python; fail unless it ends well and says nothing of errors."""
    command = [sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment() | options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_processes(method, set_threads, monkeypatch):
    """Children of a process whose threads have been at work, and still are; some get a model by pickle."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    set_threads(4)
    context = multiprocessing.get_context(method)
    answers, stop = context.Queue(), threading.Event()
    model = children.compiled()
    expected = children.known((model,))

    def keep_busy():
        while not stop.is_set():
            children.known((model,))

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        started = [context.Process(target=children.answer, args=(answers, given)) for given in (None, model, model)]
        for process in started:
            process.start()
        found = [answers.get(timeout=300) for _ in started]
        for process in started:
            process.join(300)
    finally:
        stop.set()
        busy.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    for value in found:
        np.testing.assert_array_equal(value, expected)


INTERRUPTED = """
import os, random, signal, sys, threading, time
import numpy as np
import fastmask as fm
from fastmask.ops import tuning
from helpers.runs import Batches, compiled, rows

tuning.OPERATIONS_PER_THREAD = 100
fm.set_num_threads(3)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background ignores it

class Watch(fm.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.after += sent.is_set()

model, watch, clock = compiled(), Watch(), random.Random(4)
x, y = rows()
for _ in range(25):
    sent, watch.after = threading.Event(), 0

    def send():
        time.sleep(clock.uniform(0.01, 0.1))
        sent.set()
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        model.fit(Batches(), epochs=10**6, verbose=0, callbacks=[watch])
    except KeyboardInterrupt:
        pass
    sender.join()
    assert watch.after <= 1, watch.after
    for _ in range(1000):  # a worker that makes a batch ends after it
        left = [thread.name for thread in threading.enumerate()]
        if not any(name.startswith("fastmask-data") for name in left):
            break
        time.sleep(0.01)
    assert {"MainThread"} <= set(left) <= {"MainThread", "fastmask-0", "fastmask-1"}, left
    assert model.place is None
    assert np.isfinite(model.predict(x, verbose=0)).all()
    found = model.fit(x, y, verbose=0).history["loss"]
    assert np.isfinite(found).all()
alone = [model.predict(x[i : i + 1], verbose=0)[0] for i in range(len(x))]
assert np.array_equal(model.predict(x, verbose=0), alone)
"""


@POSIX
def test_ctrl_c():
    """A training stops within a batch, wherever it is; no thread but the pool's is left."""
    run(INTERRUPTED)


def test_an_interruption_waits_for_other_threads(set_threads):
    set_threads(2)
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def helped():
        begun.set()
        may_end.wait(60)
        ended.append(True)

    def interrupted():
        begun.wait(60)
        threading.Timer(0.2, may_end.set).start()
        raise KeyboardInterrupt

    # Whoever takes the first task, the caller's thread gets an interruption.
    def task():
        return interrupted() if threading.current_thread() is threading.main_thread() else helped()

    never = []
    with pytest.raises(KeyboardInterrupt):
        threads.run([task, task, lambda: never.append(True)])
    assert ended == [True]


def test_without_new_threads(set_threads, monkeypatch):
    """Where no thread can be started any more, the caller does the work."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    set_threads(4)
    done = []
    threads.run([lambda i=i: done.append(i) for i in range(5)])
    assert done == list(range(5))


ENDS = {
    "a daemon thread trains": """
        threading.Thread(target=train, daemon=True).start()
        time.sleep(clock.uniform(0.05, 0.2))""",
    "several daemon threads predict": """
        for _ in range(4):
            threading.Thread(target=predict, daemon=True).start()
        time.sleep(clock.uniform(0.05, 0.2))""",
    "a function called at the end predicts": """
        atexit.register(lambda: print(model.predict(x, verbose=0).shape))""",
    "a function called at the end trains on a dataset": """
        model.fit(Batches(), verbose=0)
        atexit.register(lambda: print(model.fit(x, y, verbose=0).epoch))""",
    "in the middle of an iteration": """
        kept = iter(Batches())
        next(kept)""",
    "in the middle of a prediction by batches": """
        kept = model.predict_batches(Batches())
        next(kept)""",
}
END = """
import atexit, random, sys, threading, time
import fastmask as fm
from fastmask.ops import tuning
from helpers.runs import Batches, compiled, rows

tuning.OPERATIONS_PER_THREAD = 100
fm.set_num_threads(4)
clock, model = random.Random(int(sys.argv[1])), compiled(units=40)
x, y = rows()

def train():
    model.fit(x, y, epochs=10**6, verbose=0)

def predict():
    while True:
        model.predict(x, verbose=0)

if True:{}
"""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ENDS)
def test_the_interpreter_ends(name, seed):
    run(END.format(ENDS[name]), str(seed))


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_process(number):
    code = END.format("""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.1, lambda: os.kill(os.getpid(), int(sys.argv[2]))).start()
        train()""")
    command = [sys.executable, "-c", f"import os, signal\n{code}", "1", str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == -number
    assert ("KeyboardInterrupt" in done.stderr) == (number == signal.SIGINT)
