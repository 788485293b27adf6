//! The arithmetic on the CPU against plain loops in f64, on odd shapes, and on one thread against several.

use stepback_native::device::cpu::conv::{Conv2d, Epilogue, Shape};

/// Numbers in -1..1 from a linear congruential generator.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Fails unless |got - want| <= tolerance * (1 + |want|) everywhere.
fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(g) - w).abs();
        assert!(
            off <= tolerance * (1.0 + w.abs()),
            "{what}[{i}]: {g} instead of {w}"
        );
    }
}

/// Runs `f` on pools of one, two and three threads and asserts the same bits.
fn on_pools<T: PartialEq + Send>(f: impl Fn(usize) -> T + Sync) -> T {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| f(threads))
    };
    let one = run(1);
    for threads in [2, 3] {
        assert!(run(threads) == one, "{threads} threads differ from one");
    }
    one
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn floats(x: &[u32]) -> Vec<f32> {
    x.iter().map(|&x| f32::from_bits(x)).collect()
}

/// Memory whose old contents would be noticed.
fn dirty(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

#[rustfmt::skip]
const SHAPES: &[[usize; 7]] = &[
    // images, height, width, channels in, out, kernel, stride (padding: none, and kernel / 2)
    [1, 5, 7, 3, 5, 3, 1],
    [2, 8, 8, 16, 16, 3, 1],
    [3, 9, 6, 17, 33, 3, 2],
    [5, 2, 2, 20, 12, 3, 1],
    [2, 1, 1, 8, 8, 1, 1],
    [3, 7, 7, 9, 70, 1, 2],
    [2, 11, 13, 4, 6, 5, 3],
    [1, 15, 14, 3, 10, 7, 2],
    [7, 4, 4, 80, 48, 3, 1],
    [2, 32, 32, 16, 32, 3, 2],
    [33, 8, 8, 8, 16, 3, 1],
    [1, 70, 66, 24, 16, 3, 1],
    [1, 67, 70, 16, 20, 3, 2],
    [2, 3, 3, 256, 17, 3, 1],
];

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for &[
        images,
        height,
        width,
        channels_in,
        channels_out,
        kernel,
        stride,
    ] in SHAPES
    {
        for pad in [0, kernel / 2] {
            if kernel <= height.min(width) + 2 * pad {
                shapes.push(Shape {
                    images,
                    height,
                    width,
                    channels_in,
                    channels_out,
                    kernel,
                    stride,
                    pad,
                });
            }
        }
    }
    shapes.dedup();
    shapes
}

/// Calls `f(x index, w index, y index)` for every product of a convolution.
fn each_product(s: &Shape, mut f: impl FnMut(usize, usize, usize)) {
    let (k, ci, co) = (s.kernel, s.channels_in, s.channels_out);
    for n in 0..s.images {
        for i in 0..s.out_height() {
            for j in 0..s.out_width() {
                for p in 0..k {
                    for q in 0..k {
                        let u = (i * s.stride + p).wrapping_sub(s.pad);
                        let v = (j * s.stride + q).wrapping_sub(s.pad);
                        if u >= s.height || v >= s.width {
                            continue;
                        }
                        let x = ((n * s.height + u) * s.width + v) * ci;
                        let y = ((n * s.out_height() + i) * s.out_width() + j) * co;
                        for o in 0..co {
                            for c in 0..ci {
                                f(x + c, ((o * ci + c) * k + p) * k + q, y + o);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn convolution_and_its_gradients() {
    for shape in shapes() {
        let conv = Conv2d::new(shape);
        let x = numbers(1, shape.input_len());
        let w = numbers(2, shape.weight_len());
        let dy = numbers(3, shape.output_len());
        let mut y64 = vec![0.0; dy.len()];
        let mut dx64 = vec![0.0; x.len()];
        let mut dw64 = vec![0.0; w.len()];
        each_product(&shape, |i, j, k| {
            y64[k] += f64::from(x[i]) * f64::from(w[j]);
            dx64[i] += f64::from(dy[k]) * f64::from(w[j]);
            dw64[j] += f64::from(dy[k]) * f64::from(x[i]);
        });
        let got = on_pools(|threads| {
            let mut ws = dirty(conv.workspace(threads));
            let (mut y, mut dx, mut dw) = (dirty(dy.len()), dirty(x.len()), dirty(w.len()));
            conv.forward(&x, &w, Epilogue::default(), &mut y, &mut ws);
            conv.input_gradient(&dy, &w, &mut dx, &mut ws);
            conv.weight_gradient(&x, &dy, &mut dw, &mut ws);
            [bits(&y), bits(&dx), bits(&dw)]
        });
        // Sums of n products grow like the root of n, and so does the rounding relative to them.
        let taps = (shape.kernel * shape.kernel) as f64;
        let tolerance = |terms: f64| 1e-7 * terms.max(4.0);
        let [y, dx, dw] = got.map(|bits| floats(&bits));
        let name = |what| format!("{what} of {shape:?}");
        let (ci, co) = (shape.channels_in as f64, shape.channels_out as f64);
        assert_close(&name("y"), &y, &y64, tolerance(taps * ci));
        assert_close(&name("dx"), &dx, &dx64, tolerance(taps * co));
        assert_close(&name("dw"), &dw, &dw64, tolerance(dy.len() as f64 / co));
    }
}

#[test]
fn convolution_epilogue() {
    for shape in shapes() {
        let conv = Conv2d::new(shape);
        let x = numbers(1, shape.input_len());
        let w = numbers(2, shape.weight_len());
        let bias = numbers(3, shape.channels_out);
        let add = numbers(4, shape.output_len());
        let mut ws = dirty(conv.workspace(rayon::current_num_threads()));
        let mut plain = dirty(add.len());
        conv.forward(&x, &w, Epilogue::default(), &mut plain, &mut ws);
        for case in 0..8 {
            let epilogue = Epilogue {
                bias: (case & 1 != 0).then_some(&bias),
                add: (case & 2 != 0).then_some(&add),
                relu: case & 4 != 0,
            };
            let mut y = dirty(add.len());
            conv.forward(&x, &w, epilogue, &mut y, &mut ws);
            for (i, (y, plain)) in y.iter().zip(&plain).enumerate() {
                let mut want = *plain;
                if let Some(bias) = epilogue.bias {
                    want += bias[i % shape.channels_out];
                }
                if let Some(add) = epilogue.add {
                    want += add[i];
                }
                if epilogue.relu {
                    want = want.max(0.0);
                }
                assert_eq!(*y, want, "{shape:?} case {case} [{i}]");
            }
        }
    }
}
