//! What attention in windows adds to its scores (Swin transformer, Liu et al. 2021): y[g, i, j] = w[r, c] + m[g, i, j],
//! (r, c) being the distance from pixel i to pixel j of a window, and m[g, i, j] = -infinity where shift has put
//! pixels into window g that are no neighbours in the image.
//!
//! Gradient: dw[r, c] = sum of dy over its places, in their order.

use crate::graph::{Bwd, Fwd, Op, Var};
use crate::ops::{Case, Row};

/// Windows of an image that are treated alike but for the mask.
struct WindowBias {
    /// Pixels along a window.
    size: usize,
    shift: usize,
    /// Rows and columns of windows in an image.
    windows: [usize; 2],
}

impl<'t> Var<'t> {
    /// The scores' addends by windows and pairs of pixels (G, `size`², `size`²), with `self` (2 `size` - 1, 2 `size` - 1)
    /// by distances. G is 1 without a shift, else the number of `windows` (rows and columns of them).
    pub fn window_bias(self, windows: [usize; 2], shift: usize) -> Var<'t> {
        let [rows, columns] = self.shape()[..] else {
            panic!("window_bias: {:?} is not a table", self.shape());
        };
        assert!(rows == columns && rows % 2 == 1, "window_bias: table");
        let op = WindowBias {
            size: rows.div_ceil(2),
            shift,
            windows: if shift == 0 { [1, 1] } else { windows },
        };
        let pixels = op.size * op.size;
        let windows = op.windows[0] * op.windows[1];
        self.tape.apply(op, &[self], &[windows, pixels, pixels])
    }
}

/// Are two pixels of the last windows of an image apart in it, `rows` or columns deciding?
pub fn apart(size: usize, shift: usize, rows: bool, [i, j]: [usize; 2]) -> bool {
    let wrapped = |pixel: usize| {
        let place = if rows { pixel / size } else { pixel % size };
        place >= size - shift
    };
    wrapped(i) != wrapped(j)
}

impl WindowBias {
    /// The distances as places in the table, for all pairs of pixels.
    fn distances(&self) -> impl Iterator<Item = usize> + use<> {
        let size = self.size;
        let pixels = size * size;
        (0..pixels * pixels).map(move |pair| {
            let (i, j) = (pair / pixels, pair % pixels);
            let row = j / size + size - 1 - i / size;
            let column = j % size + size - 1 - i % size;
            row * (2 * size - 1) + column
        })
    }
}

impl Op for WindowBias {
    fn name(&self) -> &'static str {
        "window_bias"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let pixels = self.size * self.size;
        let [down, across] = self.windows;
        let windows = io.y.chunks_exact_mut(pixels * pixels);
        for (window, y) in windows.enumerate() {
            let last = [window / across == down - 1, window % across == across - 1];
            for (pair, (y, place)) in y.iter_mut().zip(self.distances()).enumerate() {
                let pair = [pair / pixels, pair % pixels];
                let masked = [true, false]
                    .into_iter()
                    .zip(last)
                    .any(|(rows, last)| last && apart(self.size, self.shift, rows, pair));
                *y = if masked {
                    f32::NEG_INFINITY
                } else {
                    io.x[0][place]
                };
            }
        }
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dw, ..] = io.dx;
        dw.fill(0.0);
        let pixels = self.size * self.size;
        for dy in io.dy.chunks_exact(pixels * pixels) {
            for (dy, place) in dy.iter().zip(self.distances()) {
                dw[place] += dy;
            }
        }
    }
}

pub const ROW: Row = Row {
    name: "window_bias",
    cases: &[
        Case::new("windows of 3", &[&[5, 5]], |x| {
            x[0].window_bias([2, 4], 0)
        }),
        Case::new("a window of one pixel", &[&[1, 1]], |x| {
            x[0].window_bias([1, 1], 0)
        }),
        // Where it is -infinity, attention's probability is 0.
        Case::new(
            "six shifted windows in attention",
            &[&[3, 3], &[6, 4, 6]],
            |x| x[1].attention(1, Some(x[0].window_bias([3, 2], 1)), 0.0),
        ),
    ],
};
