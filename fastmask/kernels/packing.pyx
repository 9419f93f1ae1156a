# Integer work on masks and ids: plans of packed batches, distinct ids. One module for all instruction sets.

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

include "previous.pxi"


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


cdef inline int64_t count_nonzero(const uint8_t *numbers, Py_ssize_t count) noexcept nogil:
    # Eight at a time: the highest bit of each byte tells whether it is zero, and a product adds those bits up.
    cdef uint64_t low = 0x7f7f7f7f7f7f7f7f, ones = 0x0101010101010101, eight
    cdef int64_t n = 0
    while count >= 8:
        memcpy(&eight, numbers, 8)
        n = n + <int64_t>((((((eight & low) + low) | eight) & ~low) >> 7) * ones >> 56)
        numbers = numbers + 8
        count = count - 8
    while count > 0:
        n = n + (numbers[0] != 0)
        numbers = numbers + 1
        count = count - 1
    return n


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


cdef struct Plan:
    Py_ssize_t batch_size, total_length, steps
    int64_t *sorted_indices     # [batch_size]
    int64_t *unsorted_indices   # [batch_size]
    int64_t *batch_sizes        # [steps]
    int64_t *offsets            # [steps]
    int64_t *positions          # [tokens]
    int64_t *rows               # [tokens]


cdef void sort_rows(const Plan *p, const int64_t *lengths, int64_t *cursor) noexcept nogil:
    # Stable counting sort of rows, longest first, and the layout of the steps. cursor: scratch [steps + 1].
    cdef Py_ssize_t b, t = p.steps
    cdef int64_t count, place = 0, total = 0
    memset(cursor, 0, (p.steps + 1) * sizeof(int64_t))
    for b in range(p.batch_size):
        cursor[lengths[b]] += 1
    # Rows longer than t: both the batch size of step t and where rows of length t start.
    while t >= 0:
        count = cursor[t]
        cursor[t] = place
        if t < p.steps:
            p.batch_sizes[t] = place
        place = place + count
        t = t - 1
    for b in range(p.batch_size):
        place = cursor[lengths[b]]
        cursor[lengths[b]] = place + 1
        p.sorted_indices[place] = b
        p.unsorted_indices[b] = place
    for t in range(p.steps):
        p.offsets[t] = total
        total = total + p.batch_sizes[t]


cdef void find_valid_steps(const Plan *p, const uint8_t *mask, const int64_t *lengths, int64_t *steps,
                           int64_t *begins) noexcept nogil:
    # The valid steps of each row of the sorted batch, one row behind the other, and where each row begins.
    # Every step is written down, and the next one over it if it does not count: a branch on a mask with holes is
    # mispredicted.
    cdef Py_ssize_t i, t, k
    cdef const uint8_t *row
    begins[0] = 0
    for i in range(p.batch_size):
        row = mask + p.sorted_indices[i] * p.total_length
        k = begins[i]
        begins[i + 1] = k + lengths[p.sorted_indices[i]]
        t = 0
        while k < begins[i + 1]:
            steps[k] = t
            k = k + (row[t] != 0)
            t = t + 1


cdef void place_tokens(const Plan *p, const int64_t *steps, const int64_t *begins) noexcept nogil:
    # Where each packed token stands in the padded grid, and its row. steps of NULL: the first steps of a row count.
    cdef Py_ssize_t i, t, b, token = 0
    for t in range(p.steps):
        for i in range(p.batch_sizes[t]):
            b = p.sorted_indices[i]
            p.positions[token] = b * p.total_length + (t if steps == NULL else steps[begins[i] + t])
            p.rows[token] = b
            token = token + 1


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
    cdef Py_ssize_t i, t, token = 0
    with nogil:
        for t in range(batch_sizes.shape[0]):
            for i in range(batch_sizes[t]):
                reverse[token] = offsets[sorted_lengths[i] - 1 - t] + i
                token = token + 1


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


def distinct(const int64_t[::1] ids, int64_t[::1] places, int64_t[::1] unique, int64_t[::1] index):
    """Distinct ids in order of appearance and each token's place among them.

    places: one for each legal id, whatever stands there. Returns (number of distinct ids, first token whose id is
    out of range or -1).
    """
    # What stands in `places` counts if that place is the id's (Briggs and Torczon 1993): nothing has to be cleared,
    # which for a million ids would take ten times as long as all else.
    cdef Py_ssize_t n, found = 0, bad = -1
    cdef int64_t i, place
    with nogil:
        for n in range(ids.shape[0]):
            i = ids[n]
            if i < 0 or i >= places.shape[0]:
                bad = n
                break
            place = places[i]
            if place < 0 or place >= found or unique[place] != i:
                place = places[i] = found
                unique[found] = i
                found = found + 1
            index[n] = place
    return found, bad
