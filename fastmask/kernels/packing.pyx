# Integer work on masks and ids: plans of packed batches, distinct ids. One module for all instruction sets.

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy


def count_valid(const uint8_t[:, ::1] mask, int64_t[::1] lengths):
    """lengths[b] = number of nonzero bytes in row b."""
    cdef Py_ssize_t b, t
    cdef int64_t n
    with nogil:
        for b in range(mask.shape[0]):
            n = 0
            for t in range(mask.shape[1]):
                n = n + (mask[b, t] != 0)
            lengths[b] = n


def sort_rows(const int64_t[::1] lengths, int64_t[::1] sorted_indices, int64_t[::1] unsorted_indices,
              int64_t[::1] batch_sizes, int64_t[::1] offsets, int64_t[::1] cursor):
    """Stable counting sort of rows, longest first, and the layout of the steps.

    batch_sizes [longest]: rows that have a step; offsets [longest]: tokens before a step; cursor
    [longest + 1]: scratch.
    """
    cdef Py_ssize_t b, t, steps = batch_sizes.shape[0], rows = lengths.shape[0]
    cdef int64_t place, total = 0
    with nogil:
        for t in range(steps + 1):
            cursor[t] = 0
        for b in range(rows):
            cursor[lengths[b]] += 1
        # Rows longer than t: both the batch size of step t and where rows of length t start.
        place = 0
        t = steps
        while t >= 0:
            total = cursor[t]
            cursor[t] = place
            if t < steps:
                batch_sizes[t] = place
            place = place + total
            t = t - 1
        for b in range(rows):
            place = cursor[lengths[b]]
            cursor[lengths[b]] = place + 1
            sorted_indices[place] = b
            unsorted_indices[b] = place
        total = 0
        for t in range(steps):
            offsets[t] = total
            total = total + batch_sizes[t]


def fill_positions(const uint8_t[:, ::1] mask, const int64_t[::1] sorted_indices, const int64_t[::1] offsets,
                   Py_ssize_t total_length, int64_t[::1] positions, int64_t[::1] rows):
    """Where each packed token stands in the padded grid (row * total_length + step), and its row.

    Row i of the sorted batch has its k-th token at offsets[k] + i.
    """
    cdef Py_ssize_t i, t, b, token
    cdef int64_t k
    with nogil:
        for i in range(mask.shape[0]):
            b = sorted_indices[i]
            k = 0
            for t in range(total_length):
                if mask[b, t] != 0:
                    token = offsets[k] + i
                    positions[token] = b * total_length + t
                    rows[token] = b
                    k = k + 1


def fill_leading_positions(const int64_t[::1] sorted_indices, const int64_t[::1] batch_sizes, Py_ssize_t total_length,
                           int64_t[::1] positions, int64_t[::1] rows):
    """The same for rows whose tokens are their first steps."""
    cdef Py_ssize_t i, t, token = 0
    with nogil:
        for t in range(batch_sizes.shape[0]):
            for i in range(batch_sizes[t]):
                positions[token] = sorted_indices[i] * total_length + t
                rows[token] = sorted_indices[i]
                token = token + 1


def fill_reverse(const int64_t[::1] sorted_lengths, const int64_t[::1] batch_sizes, const int64_t[::1] offsets,
                 int64_t[::1] reverse):
    """reverse[n]: the packed token that a backward run visits where a forward run visits n."""
    cdef Py_ssize_t i, t, token = 0
    with nogil:
        for t in range(batch_sizes.shape[0]):
            for i in range(batch_sizes[t]):
                reverse[token] = offsets[sorted_lengths[i] - 1 - t] + i
                token = token + 1


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


def gather_rows(const uint8_t[:, ::1] source, const int64_t[::1] index, const uint8_t[::1] fill, uint8_t[:, ::1] out):
    """out[n] = source[index[n]], or fill where the index is -1; rows of bytes of any type."""
    cdef Py_ssize_t n, width = out.shape[1]
    if width == 0:
        return
    with nogil:
        for n in range(index.shape[0]):
            if index[n] >= 0:
                memcpy(&out[n, 0], &source[index[n], 0], width)
            else:
                memcpy(&out[n, 0], &fill[0], width)


def scatter_rows(const uint8_t[:, ::1] source, const int64_t[::1] index, uint8_t[:, ::1] out):
    """out[index[n]] = source[n]."""
    cdef Py_ssize_t n, width = out.shape[1]
    if width == 0:
        return
    with nogil:
        for n in range(index.shape[0]):
            memcpy(&out[index[n], 0], &source[n, 0], width)


def distinct(const int64_t[::1] ids, int64_t[::1] table, int64_t[::1] unique, int64_t[::1] index):
    """Distinct ids in order of appearance and each token's place among them.

    table: zeros, one for each legal id. Returns (number of distinct ids, first token whose id is out of
    range or -1).
    """
    cdef Py_ssize_t n, found = 0, bad = -1
    cdef int64_t i
    with nogil:
        for n in range(ids.shape[0]):
            i = ids[n]
            if i < 0 or i >= table.shape[0]:
                bad = n
                break
            if table[i] == 0:
                unique[found] = i
                found = found + 1
                table[i] = found
            index[n] = table[i] - 1
    return found, bad
