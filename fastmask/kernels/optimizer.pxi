# One pass over a parameter for each optimizer step. Formulas: Keras 3, where epsilon stands inside the
# root for RMSprop and outside for Adam.

def sgd_step(real[::1] parameter, const real[::1] gradient, real[::1] velocity, double learning_rate, double momentum,
             bint nesterov):
    """w -= lr * g; with momentum v = momentum * v - lr * g, w += v or, Nesterov, w += momentum * v - lr * g."""
    cdef Py_ssize_t k
    cdef real rate = learning_rate, mu = momentum, step
    with nogil:
        if velocity is None:
            for k in range(parameter.shape[0]):
                parameter[k] = parameter[k] - rate * gradient[k]
        else:
            for k in range(parameter.shape[0]):
                step = rate * gradient[k]
                velocity[k] = mu * velocity[k] - step
                parameter[k] = parameter[k] + (mu * velocity[k] - step if nesterov else velocity[k])


def rmsprop_step(real[::1] parameter, const real[::1] gradient, real[::1] mean_square, real[::1] momentum_buffer,
                 real[::1] mean, double learning_rate, double rho, double momentum, double epsilon):
    """v = rho * v + (1 - rho) * g * g; u = lr * g / sqrt(v - mean * mean + epsilon); with momentum p = momentum * p + u."""
    cdef Py_ssize_t k
    cdef real rate = learning_rate, decay = rho, rest = 1 - rho, mu = momentum, small = epsilon, g, v, step
    with nogil:
        for k in range(parameter.shape[0]):
            g = gradient[k]
            mean_square[k] = decay * mean_square[k] + rest * g * g
            v = mean_square[k] + small
            if mean is not None:
                mean[k] = decay * mean[k] + rest * g
                v = v - mean[k] * mean[k]
            step = rate * g / <real>sqrt(v)
            if momentum_buffer is not None:
                momentum_buffer[k] = mu * momentum_buffer[k] + step
                step = momentum_buffer[k]
            parameter[k] = parameter[k] - step


def adam_step(real[::1] parameter, const real[::1] gradient, real[::1] m, real[::1] v, real[::1] v_max, double alpha,
              double beta_1, double beta_2, double epsilon):
    """m += (g - m)(1 - beta_1); v += (g g - v)(1 - beta_2); w -= alpha * m / (sqrt(v) + epsilon)."""
    cdef Py_ssize_t k
    cdef real rate = alpha, rest_1 = 1 - beta_1, rest_2 = 1 - beta_2, small = epsilon, g, second
    with nogil:
        for k in range(parameter.shape[0]):
            g = gradient[k]
            m[k] = m[k] + (g - m[k]) * rest_1
            v[k] = v[k] + (g * g - v[k]) * rest_2
            second = v[k]
            if v_max is not None:
                if second > v_max[k]:
                    v_max[k] = second
                second = v_max[k]
            parameter[k] = parameter[k] - rate * m[k] / (<real>sqrt(second) + small)
