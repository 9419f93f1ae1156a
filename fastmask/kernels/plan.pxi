# The layout of a packed batch: which steps of a masked batch count, sorted by length and laid out by time.

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset


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


cdef void find_reverse(const int64_t *sorted_lengths, const int64_t *batch_sizes, Py_ssize_t steps,
                       const int64_t *offsets, int64_t *reverse) noexcept nogil:
    # reverse[n]: the packed token that a backward run visits where a forward run visits n.
    cdef Py_ssize_t i, t, token = 0
    for t in range(steps):
        for i in range(batch_sizes[t]):
            reverse[token] = offsets[sorted_lengths[i] - 1 - t] + i
            token = token + 1
