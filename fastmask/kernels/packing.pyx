# Integer work on masks and ids: plans of packed batches, distinct ids. One module for all instruction sets.

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import numpy as np

include "plan.pxi"
include "previous.pxi"

cdef object empty = np.empty
cdef object np_int64 = np.dtype(np.int64)


def count_valid(const uint8_t[:, ::1] mask, int64_t[::1] lengths):
    """lengths[b] = number of nonzero bytes in row b; returns the largest and the sum of them."""
    cdef Py_ssize_t b
    cdef int64_t n, longest = 0, total = 0
    if mask.shape[1] == 0:
        lengths[:] = 0
        return longest, total
    with nogil:
        for b in range(mask.shape[0]):
            n = count_nonzero(&mask[b, 0], mask.shape[1])
            lengths[b] = n
            longest = max(longest, n)
            total = total + n
    return longest, total


def extent(const int64_t[::1] lengths):
    """The smallest, the largest and the sum of some numbers; zeros where there are none."""
    cdef Py_ssize_t b
    cdef int64_t smallest = lengths[0] if lengths.shape[0] > 0 else 0, longest = smallest
    cdef uint64_t total = 0     # wraps around where the lengths are no plan's
    with nogil:
        for b in range(lengths.shape[0]):
            smallest = min(smallest, lengths[b])
            longest = max(longest, lengths[b])
            total = total + <uint64_t>lengths[b]
    return smallest, longest, total


cdef void find_last_steps(const int64_t *lengths, Py_ssize_t rows, const int64_t *unsorted_indices,
                          const int64_t *offsets, int64_t *last) noexcept nogil:
    cdef Py_ssize_t b
    for b in range(rows):
        last[b] = unsorted_indices[b]
        if lengths[b] > 0:
            last[b] += rows + offsets[lengths[b] - 1]


def lay_out(const uint8_t[:, ::1] mask, const int64_t[::1] lengths, Py_ssize_t total_length, Py_ssize_t steps,
            Py_ssize_t tokens, int64_t[::1] memory):
    """Fill a plan: sorted_indices, unsorted_indices [B], batch_sizes, offsets [steps], positions, rows [tokens].

    They and last_steps [B] stand one behind the other in `memory`, which has room for steps + 1 numbers more. mask of
    None: the first steps of each row count.
    """
    cdef Plan p
    cdef const uint8_t *valid = NULL
    cdef int64_t *last
    cdef int64_t *begins = NULL
    cdef int64_t *valid_steps = NULL
    if lengths.shape[0] == 0:
        return
    if mask is not None and mask.shape[1] > 0:
        valid = &mask[0, 0]
        begins = <int64_t *>malloc((lengths.shape[0] + 1 + tokens) * sizeof(int64_t))
        if begins == NULL:
            raise MemoryError()
        valid_steps = begins + lengths.shape[0] + 1
    p.batch_size = lengths.shape[0]
    p.total_length = total_length
    p.steps = steps
    p.sorted_indices = &memory[0]
    p.unsorted_indices = p.sorted_indices + p.batch_size
    p.batch_sizes = p.unsorted_indices + p.batch_size
    p.offsets = p.batch_sizes + steps
    p.positions = p.offsets + steps
    p.rows = p.positions + tokens
    last = p.rows + tokens
    with nogil:
        sort_rows(&p, &lengths[0], last + p.batch_size)
        if valid != NULL:
            find_valid_steps(&p, valid, &lengths[0], valid_steps, begins)
        place_tokens(&p, valid_steps, begins)
        find_last_steps(&lengths[0], p.batch_size, p.unsorted_indices, p.offsets, last)
    free(begins)


def fill_leading_positions(const int64_t[::1] sorted_indices, const int64_t[::1] batch_sizes, Py_ssize_t total_length,
                           int64_t[::1] positions, int64_t[::1] rows):
    """Where each packed token stands in the padded grid, and its row, for rows whose tokens are their first steps."""
    cdef Plan p
    if positions.shape[0] == 0:
        return
    p.total_length = total_length
    p.steps = batch_sizes.shape[0]
    p.sorted_indices = <int64_t *>&sorted_indices[0]
    p.batch_sizes = <int64_t *>&batch_sizes[0]
    p.positions = &positions[0]
    p.rows = &rows[0]
    with nogil:
        place_tokens(&p, NULL, NULL)


def split_rows(const int64_t[::1] lengths, const int64_t[::1] sorted_indices, int parts):
    """The ends of at most so many ranges of sorted rows whose steps take about as long: 0, ..., all rows."""
    cdef list ends = [0]
    cdef Py_ssize_t row = 0, rows = sorted_indices.shape[0]
    cdef int64_t most, least = 0, enough = 0
    for row in range(rows):
        enough = enough + FEW * lengths[row]
    # The least cost that no range goes beyond, by bisection
    while least < enough:
        most = (least + enough) // 2
        if count_ranges(lengths, sorted_indices, most) <= parts:
            enough = most
        else:
            least = most + 1
    row = 0
    while row < rows:
        row = end_of_range(lengths, sorted_indices, row, enough)
        ends.append(row)
    return ends


cdef enum:
    FEW = 2     # rows of a step that take as long as one, because the weights are read once for all of them


cdef int count_ranges(const int64_t[::1] lengths, const int64_t[::1] sorted_indices, int64_t most) noexcept nogil:
    cdef Py_ssize_t row = 0
    cdef int count = 0
    while row < sorted_indices.shape[0]:
        row = end_of_range(lengths, sorted_indices, row, most)
        count = count + 1
    return count


cdef Py_ssize_t end_of_range(const int64_t[::1] lengths, const int64_t[::1] sorted_indices, Py_ssize_t row,
                             int64_t most) noexcept nogil:
    # The end of the longest range from a row on, but at least that row, whose cost is at most so much
    cdef int64_t cost = FEW * lengths[sorted_indices[row]]
    cdef Py_ssize_t end = row + 1
    while end < sorted_indices.shape[0]:
        if end >= row + FEW:
            cost = cost + lengths[sorted_indices[end]]
        if cost > most:
            break
        end = end + 1
    return end


def fill_reverse(const int64_t[::1] sorted_lengths, const int64_t[::1] batch_sizes, const int64_t[::1] offsets,
                 int64_t[::1] reverse):
    """reverse[n]: the packed token that a backward run visits where a forward run visits n."""
    if reverse.shape[0] > 0:
        with nogil:
            find_reverse(&sorted_lengths[0], &batch_sizes[0], batch_sizes.shape[0], &offsets[0], &reverse[0])


def fill_previous(const int64_t[::1] batch_sizes, Py_ssize_t batch_size, int64_t[::1] previous):
    """previous[n]: the state before packed token n among batch_size initial states, then one for each token."""
    if previous.shape[0] > 0:
        with nogil:
            find_previous(&batch_sizes[0], batch_sizes.shape[0], batch_size, &previous[0])


def fill_last_steps(const int64_t[::1] lengths, const int64_t[::1] unsorted_indices, const int64_t[::1] offsets,
                    int64_t[::1] last):
    """last[b]: the last state of row b among one initial state for each row, in sorted order, then the tokens."""
    if lengths.shape[0] > 0:
        with nogil:
            find_last_steps(&lengths[0], lengths.shape[0], &unsorted_indices[0], &offsets[0], &last[0])


def fill_grid(const int64_t[::1] positions, Py_ssize_t rows, Py_ssize_t total_length, bint repeat, int64_t[::1] grid):
    """grid[row * total_length + step] = packed token there, or -1; with repeat, the last token before."""
    cdef Py_ssize_t n, b, t
    cdef int64_t last
    with nogil:
        for n in range(grid.shape[0]):
            grid[n] = -1
        for n in range(positions.shape[0]):
            grid[positions[n]] = n
        if repeat:
            for b in range(rows):
                last = -1
                for t in range(total_length):
                    if grid[b * total_length + t] < 0:
                        grid[b * total_length + t] = last
                    else:
                        last = grid[b * total_length + t]


cdef Py_ssize_t row_bytes(const Py_buffer *rows, Py_ssize_t count) noexcept nogil:
    return rows.len // count if count > 0 else 0


def gather_rows(source, const int64_t[::1] index, fill, out):
    """out[n] = source[index[n]], or fill where the index is -1; arrays of rows of one type. fill of None: zeros."""
    cdef Py_buffer from_rows, to_rows, blank
    cdef Py_ssize_t n, width
    cdef char *target
    blank.buf = NULL
    PyObject_GetBuffer(source, &from_rows, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(out, &to_rows, PyBUF_WRITABLE)
        try:
            if fill is not None:
                PyObject_GetBuffer(fill, &blank, PyBUF_SIMPLE)
            width = row_bytes(&to_rows, index.shape[0])
            with nogil:
                target = <char *>to_rows.buf
                for n in range(index.shape[0] if width > 0 else 0):
                    if index[n] >= 0:
                        memcpy(target, <char *>from_rows.buf + index[n] * width, width)
                    elif blank.buf != NULL:
                        memcpy(target, blank.buf, width)
                    else:
                        memset(target, 0, width)
                    target = target + width
            if fill is not None:
                PyBuffer_Release(&blank)
        finally:
            PyBuffer_Release(&to_rows)
    finally:
        PyBuffer_Release(&from_rows)


def scatter_rows(source, const int64_t[::1] index, out):
    """out[index[n]] = source[n]; arrays of rows of one type."""
    cdef Py_buffer from_rows, to_rows
    cdef Py_ssize_t n, width
    PyObject_GetBuffer(source, &from_rows, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(out, &to_rows, PyBUF_WRITABLE)
        width = row_bytes(&from_rows, index.shape[0])
        with nogil:
            for n in range(index.shape[0] if width > 0 else 0):
                memcpy(<char *>to_rows.buf + index[n] * width, <char *>from_rows.buf + n * width, width)
        PyBuffer_Release(&to_rows)
    finally:
        PyBuffer_Release(&from_rows)


def clear_rows(out, const uint8_t[::1] keep, Py_ssize_t begin, Py_ssize_t end):
    """Set out[n] to zero bytes for n from begin to end - 1, unless keep[n]."""
    cdef Py_buffer rows
    cdef Py_ssize_t n, width
    PyObject_GetBuffer(out, &rows, PyBUF_WRITABLE)
    width = row_bytes(&rows, keep.shape[0])
    with nogil:
        for n in range(begin, end):
            if keep[n] == 0:
                memset(<char *>rows.buf + n * width, 0, width)
    PyBuffer_Release(&rows)


cdef enum:
    FEWEST_SLOTS = 16


cdef uint64_t SPREAD = 0x9e3779b97f4a7c15   # 2^64 over the golden ratio, which spreads ids that are close


def distinct(const int64_t[::1] ids, int64_t bound):
    """Distinct ids in order of appearance, each token's place among them, and the first token whose id is not from 0
    to bound - 1, or -1.
    """
    cdef Py_ssize_t n, slots = FEWEST_SLOTS, found = 0, bad = -1, tokens = ids.shape[0]
    found_ids = empty(tokens, np_int64)
    index = empty(tokens, np_int64)
    cdef int64_t[::1] unique = found_ids
    cdef int64_t[::1] place_of = index
    cdef int shift = 60
    cdef int64_t i
    cdef size_t slot
    cdef int32_t place
    cdef int32_t *table
    while slots < 2 * tokens:
        slots = 2 * slots
        shift = shift - 1
    # With a slot for each legal id no two share one.
    cdef bint direct = bound <= slots
    if direct:
        slots = max(bound, 1)
    table = <int32_t *>malloc(slots * sizeof(int32_t))
    if table == NULL:
        raise MemoryError()
    with nogil:
        memset(table, 0xff, slots * sizeof(int32_t))
        for n in range(tokens):
            i = ids[n]
            if i < 0 or i >= bound:
                bad = n
                break
            slot = <size_t>i if direct else <size_t>((<uint64_t>i * SPREAD) >> shift)
            place = table[slot]
            while place >= 0 and unique[place] != i:
                slot = (slot + 1) & <size_t>(slots - 1)
                place = table[slot]
            if place < 0:
                place = table[slot] = <int32_t>found
                unique[found] = i
                found = found + 1
            place_of[n] = place
    free(table)
    return found_ids[:found].copy(), index, bad
