# Products of the inputs: for blocks of steps right before those run, or by another thread ahead of them.

cdef struct Ahead:
    # Blocks of a fixed number of steps, whose products are made by whichever of two threads comes to them first: the
    # one that runs the steps, or one that makes products only, which no step has to wait for unless it has begun.
    Py_ssize_t steps            # 0: there are no such blocks
    Py_ssize_t tokens           # of a block, at most
    Py_ssize_t room             # blocks that z has room for: if not by token, they take turns
    int64_t *marks              # [blocks], from 0; 1: somebody makes its products
    int64_t current             # block whose steps run: the room of those before is free


cdef enum:
    MADE = 2                    # mark of a block
    PATIENCE = 1                # seconds


cdef struct Inputs:
    # z: products of the inputs with the kernel, plus bias. Either a table that is there already (rows[token] is a row
    # of it), or filled block by block.
    Product product
    bint table
    bint by_token               # z has one row a token; otherwise rows are used again for later blocks
    const int64_t *rows         # [tokens] or NULL: row of x, or of the table, of a token
    int64_t *x_index            # scratch [capacity]
    int64_t *z_index            # scratch [capacity]: rows of z of the block
    Py_ssize_t capacity
    Ahead ahead


cdef Py_ssize_t next_block(Inputs *inputs, const Shard *s, Slices *slices, Py_ssize_t t) noexcept nogil:
    # Prepare z for steps t, t + 1, ... as far as the scratch goes; returns the first step beyond.
    cdef Py_ssize_t token, i, n, count = 0, end = s.steps, first = 0
    cdef Columns columns
    if inputs.ahead.steps > 0:
        end = min(end, t + inputs.ahead.steps)
        first = first_row(inputs, t // inputs.ahead.steps)
        await_block(inputs, s, t // inputs.ahead.steps)
    while t < end:
        n = active_rows(s, t)
        if n == 0 or (count > 0 and count + n > inputs.capacity):
            break
        token = s.offsets[t] + s.begin
        for i in range(n):
            inputs.x_index[count] = indexed(inputs.rows, token + i)
            if inputs.table:
                inputs.z_index[count] = inputs.x_index[count]
            else:
                inputs.z_index[count] = token + i if inputs.by_token else first + count
            count = count + 1
        t = t + 1
    if inputs.table or inputs.ahead.steps > 0:
        return t
    inputs.product.far = True
    while next_panel(slices, inputs.product.columns, &columns):
        product_panel(&inputs.product, &columns, count)
        inputs.product.far = False
    return t


cdef inline Py_ssize_t first_row(const Inputs *inputs, Py_ssize_t block) noexcept nogil:
    # Blocks that are made ahead take turns in z: the first row of the one that this block has there.
    return block % inputs.ahead.room * inputs.ahead.tokens


cdef bint make_block(const Inputs *inputs, const Shard *s, Py_ssize_t block) noexcept nogil:
    # False: another thread is at it, or has made it.
    cdef Product p = inputs.product
    cdef Py_ssize_t t = block * inputs.ahead.steps
    cdef Py_ssize_t token = s.offsets[t], end = min(t + inputs.ahead.steps, s.steps) - 1
    if not fastmask_claim(inputs.ahead.marks + block, 0):
        return False
    if inputs.rows == NULL:
        p.x = p.x + token * p.x_stride
        p.x_index = NULL
    else:
        p.x_index = inputs.rows + token
    p.out = p.out + (token if inputs.by_token else first_row(inputs, block)) * p.out_stride
    p.out_index = NULL
    p.far = True
    product(&p, 0, s.offsets[end] + active_rows(s, end) - token)
    fastmask_store(inputs.ahead.marks + block, MADE)
    return True


cdef void await_block(Inputs *inputs, const Shard *s, Py_ssize_t block) noexcept nogil:
    # Called by the thread that runs the steps
    fastmask_store(&inputs.ahead.current, block)
    if not make_block(inputs, s, block):
        while not watch(inputs.ahead.marks + block, MADE, MADE, PATIENCE):
            pass


cdef void make_blocks(const Inputs *inputs, const Shard *s) noexcept nogil:
    # Called by the thread that makes products only. It ends where nobody runs the steps: after Ctrl-C.
    cdef const Ahead *ahead = &inputs.ahead
    cdef Py_ssize_t block = 0
    while active_rows(s, block * ahead.steps) > 0:
        if not inputs.by_token and not watch(&ahead.current, block - ahead.room + 1, INT64_MAX, PATIENCE):
            return
        make_block(inputs, s, block)
        block = block + 1
