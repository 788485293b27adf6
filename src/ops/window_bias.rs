//! What attention in windows adds to its scores (Swin transformer, Liu et al. 2021): y[g, i, j] = w[...] + m[g, i, j],
//! w being picked by the distance (row, column) from pixel i to pixel j of a window, or by i and j, and m[g, i, j]
//! = -infinity where a shift has put pixels into window g that are no neighbours in the image.
//!
//! Gradient: that of an entry of w is the sum of dy over its places, in their order.

use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct WindowBias {
    /// Pixels along a window.
    size: usize,
    shift: usize,
    /// Is w a table of distances?
    relative: bool,
    /// Rows and columns of windows in an image.
    windows: [usize; 2],
}

impl<'t> Var<'t> {
    /// The scores' addends by windows and pairs of pixels (G, `size`², `size`²), from `self`, a table of distances
    /// (2 `size` - 1, 2 `size` - 1) or of pairs (`size`², `size`²). G is 1 without a shift, else the number of
    /// `windows` (rows and columns of them).
    pub fn window_bias(self, size: usize, windows: [usize; 2], shift: usize) -> Var<'t> {
        let pixels = size * size;
        let relative = self.shape() == [2 * size - 1; 2];
        let fits = relative || self.shape() == [pixels; 2];
        assert!(fits && shift < size, "window_bias: sizes do not fit");
        let op = WindowBias {
            size,
            shift,
            relative,
            windows: if shift == 0 { [1, 1] } else { windows },
        };
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
    /// The places in w, for all pairs of pixels.
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let (size, relative) = (self.size, self.relative);
        let pixels = size * size;
        (0..pixels * pixels).map(move |pair| {
            if !relative {
                return pair;
            }
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
            for (pair, (y, place)) in y.iter_mut().zip(self.places()).enumerate() {
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
            for (dy, place) in dy.iter().zip(self.places()) {
                dw[place] += dy;
            }
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let sizes = [self.size, self.shift, usize::from(self.relative)];
        let [size, shift, relative] = sizes.map(|n| n as i32);
        let [down, across] = self.windows.map(|n| n as i32);
        let grid = elementwise(io.y.len);
        kernels::window_bias_fwd(
            program, grid, io.x[0], io.y, size, shift, relative, down, across,
        );
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let windows = self.windows[0] * self.windows[1];
        let sizes = [self.size, usize::from(self.relative), windows];
        let [size, relative, windows] = sizes.map(|n| n as i32);
        let (dw, grid) = (io.dx[0], io.dx[0].len.div_ceil(8));
        kernels::window_bias_bwd(program, grid, io.dy, dw, size, relative, windows);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "window_bias",
    cases: &[
        Case::new("windows of 3", &[&[5, 5]], |x| {
            x[0].window_bias(3, [2, 4], 0)
        }),
        Case::new("a window of one pixel", &[&[1, 1]], |x| {
            x[0].window_bias(1, [1, 1], 0)
        }),
        Case::new("by pairs", &[&[4, 4]], |x| x[0].window_bias(2, [2, 2], 0)),
        Case::new(
            "by pairs, shifted, in attention",
            &[&[4, 4], &[2, 4, 12]],
            |x| x[1].attention(1, Some(x[0].window_bias(2, [1, 2], 1)), 0.0),
        ),
        // Where it is -infinity, attention's probability is 0.
        Case::new(
            "six shifted windows in attention",
            &[&[3, 3], &[6, 4, 6]],
            |x| x[1].attention(1, Some(x[0].window_bias(2, [3, 2], 1)), 0.0),
        ),
    ],
};
