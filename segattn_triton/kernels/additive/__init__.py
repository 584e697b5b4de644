"""The gate of every pixel of one map by the sum of two projections, of that map and of another: additive attention.

    h_f = relu(<wx_f, x_p> + <wg_f, g_p> + b_f),    z = <weight, h> + bias,    y = x * gate(z)

x, y (N, C, *S); g (N, G, *S), in its own memory order; wx (F, C), wg (F, G), b and weight (F,), bias (1,); z (N, P).
The operands of products are in x's dtype, their sums in the accumulator's. A tile has BLOCK_P pixels; the projections
are summed over chunks of BLOCK_K channels, and z over chunks of BLOCK_F projections, for any C, G and F.
With norms each projection is less its mean over the batch and times its scale, and z may have a norm, too.

    moments      the means and variances of the projections, 1 pass over each map
    forward      x and g into y, 3 passes; into z alone, 2
    sums         of norms, backward: what all pixels have in common, 3 passes; `settle` makes gradients of it
    backward     dy, x and g into dx and dg, 5 passes, with the gradients of both weights summed on chip
    separate     the same for any F and channels, in several kernels, `products`, with dz, F channels wide, between
                 them: 10.5 passes for F = C / 2, with norms 11
"""
