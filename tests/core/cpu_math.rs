//! The arithmetic on the CPU against plain loops in f64, on odd shapes, and on one thread against several.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::hash::{Hash, Hasher};
use std::process::Command;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use stepback_native::cpu::attention::{Attention, Keep};
use stepback_native::cpu::avx512;
use stepback_native::cpu::batch_norm::{Affine, Averages, BatchNorm, MOMENTUM, Saved, Then};
use stepback_native::cpu::causal_attention::{CausalAttention, Turns};
use stepback_native::cpu::conv::{Conv2d, Epilogue, Shape};
use stepback_native::cpu::gemm::{Matrix, gemm};
use stepback_native::cpu::math::{
    cross_entropy, erf_all, exp_all, gelu, gelu_backward, relu_squared, relu_squared_backward,
    silu, silu_backward, swiglu, swiglu_backward,
};
use stepback_native::cpu::norm::Norm;
use stepback_native::cpu::pool::{Images, add, add_to, relu, relu_backward};
use stepback_native::cpu::tokens::{embed, embed_backward};

/// Numbers in -1..1.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..len).map(|_| draws.random_range(-1.0..1.0)).collect()
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
    [2, 20, 21, 16, 16, 3, 1],
    [3, 17, 19, 5, 7, 3, 1],
    [4, 1, 1, 32, 16, 3, 1],
    [13, 2, 2, 32, 40, 3, 1],
    [25, 4, 4, 32, 32, 3, 1],
    [9, 6, 5, 32, 32, 5, 2],
    // In blocks of rows.
    [1, 40, 40, 96, 8, 3, 1],
    [1, 41, 40, 8, 96, 3, 1],
    [2, 34, 33, 256, 5, 1, 1],
    [1, 61, 60, 40, 8, 3, 2],
    [1, 84, 82, 8, 90, 3, 2],
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
            conv.input_gradient(&dy, &w, false, &mut dx, &mut ws);
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

/// The bits of what is written for both instruction sets. A process has one of them, so another one computes the same with
/// AVX2: this test, run again.
#[test]
fn the_same_without_avx512() {
    let mut all = Vec::new();
    for shape in shapes() {
        let conv = Conv2d::new(shape);
        let x = numbers(1, shape.input_len());
        let w = numbers(2, shape.weight_len());
        let dy = numbers(3, shape.output_len());
        let mut ws = dirty(conv.workspace(rayon::current_num_threads()));
        let (mut y, mut dx, mut dw) = (dirty(dy.len()), dirty(x.len()), dirty(w.len()));
        conv.forward(&x, &w, Epilogue::default(), &mut y, &mut ws);
        conv.input_gradient(&dy, &w, false, &mut dx, &mut ws);
        conv.weight_gradient(&x, &dy, &mut dw, &mut ws);
        all.extend([bits(&y), bits(&dx), bits(&dw)]);
    }
    let len = 10_003;
    let x: Vec<f32> = numbers(1, len).iter().map(|x| x * 120.0).collect();
    let mut y = dirty(len);
    for f in [exp_all, erf_all, gelu, silu] {
        f(&x, &mut y);
        all.push(bits(&y));
    }
    let mut hasher = DefaultHasher::new();
    all.hash(&mut hasher);
    let sum = format!("bits: {:x}", hasher.finish());
    if avx512().unwrap() {
        let again = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "cpu_math::the_same_without_avx512",
                "--nocapture",
            ])
            .env("STEPBACK_SIMD", "avx2")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(
            said.contains(&sum),
            "{sum} with AVX-512, without it:\n{said}"
        );
    } else {
        println!("{sum}");
    }
}

#[test]
fn convolution_epilogue() {
    for shape in shapes() {
        let conv = Conv2d::new(shape);
        let x = numbers(1, shape.input_len());
        let w = numbers(2, shape.weight_len());
        // Powers of two, so that it makes no difference whether product and sum are rounded once or twice.
        let scale: Vec<f32> = (0..shape.channels_out)
            .map(|i| [0.5, -2.0, 4.0][i % 3])
            .collect();
        let bias = numbers(3, shape.channels_out);
        let add = numbers(4, shape.output_len());
        let mut ws = dirty(conv.workspace(rayon::current_num_threads()));
        let mut plain = dirty(add.len());
        conv.forward(&x, &w, Epilogue::default(), &mut plain, &mut ws);
        for case in 0..32 {
            let epilogue = Epilogue {
                scale: (case & 16 != 0).then_some(&scale),
                bias: (case & 1 != 0).then_some(&bias),
                add: (case & 2 != 0).then_some(&add),
                relu: case & 4 != 0,
                accumulate: case & 8 != 0,
            };
            let old = numbers(5, add.len());
            let mut y = if epilogue.accumulate {
                old.clone()
            } else {
                dirty(add.len())
            };
            conv.forward(&x, &w, epilogue, &mut y, &mut ws);
            for (i, (y, plain)) in y.iter().zip(&plain).enumerate() {
                let mut want = *plain;
                if epilogue.accumulate {
                    want += old[i];
                }
                if let Some(scale) = epilogue.scale {
                    want *= scale[i % shape.channels_out];
                }
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

#[test]
fn matrix_products() {
    let sizes = [
        (1, 1, 1),
        (1, 40, 700),
        (3, 5, 1100),
        (600, 7, 9),
        (257, 33, 70),
        (4, 1, 6),
        (65, 64, 65),
    ];
    for (m, k, n) in sizes {
        let (a, b, c) = (
            numbers(1, m * k),
            numbers(2, k * n),
            numbers(3, m * (n + 3)),
        );
        for (alpha, beta) in [(1.0, 0.0), (0.5, 1.0), (-2.0, 0.25)] {
            for case in 0..4 {
                let (a_t, b_t) = (case & 1 != 0, case & 2 != 0);
                let got = on_pools(|_| {
                    let mut c = c.clone();
                    if beta == 0.0 {
                        c = dirty(c.len());
                    }
                    let a = if a_t {
                        Matrix::new(&a, m).t()
                    } else {
                        Matrix::new(&a, k)
                    };
                    let b = if b_t {
                        Matrix::new(&b, k).t()
                    } else {
                        Matrix::new(&b, n)
                    };
                    gemm((m, k, n), alpha, a, b, beta, &mut c, n + 3);
                    bits(&c)
                });
                let got = floats(&got);
                for i in 0..m {
                    let want: Vec<f64> = (0..n)
                        .map(|j| {
                            let sum: f64 = (0..k)
                                .map(|l| {
                                    let a = if a_t { a[l * m + i] } else { a[i * k + l] };
                                    let b = if b_t { b[j * k + l] } else { b[l * n + j] };
                                    f64::from(a) * f64::from(b)
                                })
                                .sum();
                            f64::from(alpha) * sum + f64::from(beta) * f64::from(c[i * (n + 3) + j])
                        })
                        .collect();
                    assert_close("c", &got[i * (n + 3)..][..n], &want, 1e-7 * k.max(8) as f64);
                    let between = &got[i * (n + 3) + n..][..3];
                    let before = &c[i * (n + 3) + n..][..3];
                    assert!(beta == 0.0 || between == before, "wrote between rows");
                }
            }
        }
    }
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn batch_norm_with_what_follows() {
    // 16 channels times 3000 pixels, and 5 times 4000, are more than one chunk.
    for (m, c) in [(7, 3), (9, 16), (3000, 16), (4000, 5), (130, 300), (50, 40)] {
        let norm = BatchNorm {
            pixels: m,
            channels: c,
        };
        // A mean far from zero, which a sum of plain squares would not survive.
        let x: Vec<f32> = numbers(1, m * c).iter().map(|x| 3.0 * x + 8.0).collect();
        let (gamma, beta) = (numbers(2, c), numbers(3, c));
        let affine = Affine {
            gamma: &gamma,
            beta: &beta,
        };
        let (residual, dy) = (numbers(4, m * c), numbers(5, m * c));
        let (run_mean, run_var) = (
            numbers(6, c),
            numbers(7, c).iter().map(|v| v + 1.5).collect::<Vec<_>>(),
        );
        // Column sums over the rows.
        let sum = |term: &dyn Fn(usize) -> f64| {
            let mut sums = vec![0.0; c];
            (0..m * c).for_each(|i| sums[i % c] += term(i));
            sums
        };
        let x64 = f64s(&x);
        let mean: Vec<f64> = sum(&|i| x64[i]).iter().map(|s| s / m as f64).collect();
        let squares = sum(&|i| (x64[i] - mean[i % c]).powi(2));
        let rstd: Vec<f64> = squares
            .iter()
            .map(|s| 1.0 / (s / m as f64 + 1e-5).sqrt())
            .collect();
        let hat = |i: usize| (x64[i] - mean[i % c]) * rstd[i % c];

        for (with_residual, with_relu) in [(false, false), (false, true), (true, true)] {
            let z = |i: usize| {
                let line = f64::from(gamma[i % c]) * hat(i) + f64::from(beta[i % c]);
                line + if with_residual {
                    f64::from(residual[i])
                } else {
                    0.0
                }
            };
            let y64: Vec<f64> = (0..m * c)
                .map(|i| if with_relu { z(i).max(0.0) } else { z(i) })
                .collect();
            let [y, dx, dz, small] = on_pools(|_| {
                let mut ws = dirty(norm.workspace());
                let (mut mean, mut rstd) = (dirty(c), dirty(c));
                let (mut running_mean, mut running_var) = (run_mean.clone(), run_var.clone());
                let mut y = dirty(m * c);
                norm.train(
                    &x,
                    affine,
                    with_residual.then_some(&residual),
                    with_relu,
                    Averages {
                        mean: &mut running_mean,
                        var: &mut running_var,
                        weight: MOMENTUM,
                    },
                    Saved {
                        mean: &mut mean,
                        rstd: &mut rstd,
                    },
                    &mut y,
                    &mut ws,
                );
                let (mut dx, mut dz) = (dirty(m * c), dirty(m * c));
                let (mut dgamma, mut dbeta) = (dirty(c), dirty(c));
                let then = match (with_residual, with_relu) {
                    (true, _) => Then::AddRelu {
                        y: &y,
                        d_residual: &mut dz,
                    },
                    (_, true) => Then::Relu,
                    _ => Then::Nothing,
                };
                let saved = Saved {
                    mean: &mean[..],
                    rstd: &rstd[..],
                };
                let mut ws = dirty(norm.workspace());
                norm.backward(
                    &x,
                    affine,
                    saved,
                    &dy,
                    then,
                    &mut dx,
                    (&mut dgamma, &mut dbeta),
                    &mut ws,
                );
                let small = [mean, rstd, running_mean, running_var, dgamma, dbeta].concat();
                [bits(&y), bits(&dx), bits(&dz), bits(&small)]
            })
            .map(|bits| floats(&bits));
            // x's distance from its mean carries the rounding of numbers near 8.
            assert_close("y", &y, &y64, 1e-5);

            // The sign of z is the kernel's own: where z is nearly 0, either is right.
            let dz64: Vec<f64> = (0..m * c)
                .map(|i| {
                    if with_relu && y[i] <= 0.0 {
                        0.0
                    } else {
                        f64::from(dy[i])
                    }
                })
                .collect();
            if with_residual {
                assert_close("dresidual", &dz, &dz64, 0.0);
            }
            let dbeta = sum(&|i| dz64[i]);
            let dgamma = sum(&|i| dz64[i] * hat(i));
            let dx64: Vec<f64> = (0..m * c)
                .map(|i| {
                    let j = i % c;
                    let off = dz64[i] - (dbeta[j] + hat(i) * dgamma[j]) / m as f64;
                    f64::from(gamma[j]) * rstd[j] * off
                })
                .collect();
            assert_close("dx", &dx, &dx64, 1e-5);
            let running = |old: &[f32], new: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..c)
                    .map(|j| 0.9 * f64::from(old[j]) + 0.1 * new(j))
                    .collect()
            };
            let small64 = [
                mean.clone(),
                rstd.clone(),
                running(&run_mean, &|j| mean[j]),
                running(&run_var, &|j| squares[j] / (m - 1) as f64),
                dgamma,
                dbeta,
            ]
            .concat();
            assert_close(
                "parameters",
                &small,
                &small64,
                1e-5 * (1.0 + m as f64 / 1e3),
            );

            let mut y = dirty(m * c);
            let mut ws = dirty(norm.workspace());
            let residual = with_residual.then_some(&residual[..]);
            norm.eval(
                &x,
                affine,
                residual,
                with_relu,
                (&run_mean, &run_var),
                &mut y,
                &mut ws,
            );
            let y64: Vec<f64> = (0..m * c)
                .map(|i| {
                    let j = i % c;
                    let hat =
                        (x64[i] - f64::from(run_mean[j])) / (f64::from(run_var[j]) + 1e-5).sqrt();
                    let z = f64::from(gamma[j]) * hat
                        + f64::from(beta[j])
                        + residual.map_or(0.0, |r| f64::from(r[i]));
                    if with_relu { z.max(0.0) } else { z }
                })
                .collect();
            assert_close("y of eval", &y, &y64, 1e-6);
        }
    }
}

#[test]
fn batch_norm_folds_into_a_convolution() {
    let shape = shapes()[5];
    let (conv, c) = (Conv2d::new(shape), shape.channels_out);
    let (x, w, bias) = (
        numbers(1, shape.input_len()),
        numbers(2, shape.weight_len()),
        numbers(3, c),
    );
    let (gamma, beta, mean) = (numbers(4, c), numbers(5, c), numbers(6, c));
    let var: Vec<f32> = numbers(7, c).iter().map(|v| v + 1.5).collect();
    let affine = Affine {
        gamma: &gamma,
        beta: &beta,
    };
    let mut ws = dirty(conv.workspace(rayon::current_num_threads()));
    let (mut y, mut want, mut folded) = (
        dirty(shape.output_len()),
        dirty(shape.output_len()),
        dirty(shape.output_len()),
    );
    let with_bias = |bias| Epilogue {
        bias: Some(bias),
        ..Epilogue::default()
    };
    conv.forward(&x, &w, with_bias(&bias), &mut y, &mut ws);
    let norm = BatchNorm {
        pixels: y.len() / c,
        channels: c,
    };
    norm.eval(
        &y,
        affine,
        None,
        false,
        (&mean, &var),
        &mut want,
        &mut dirty(norm.workspace()),
    );
    let (mut scale, mut folded_bias) = (dirty(c), dirty(c));
    BatchNorm::fold(
        affine,
        (&mean, &var),
        Some(&bias),
        &mut scale,
        &mut folded_bias,
    );
    let epilogue = Epilogue {
        scale: Some(&scale),
        ..with_bias(&folded_bias)
    };
    conv.forward(&x, &w, epilogue, &mut folded, &mut ws);
    assert_close("folded", &folded, &f64s(&want), 1e-5);
}

#[test]
fn relu_and_sums() {
    let n = 40_001;
    let (mut x, dy) = (numbers(1, n), numbers(2, n));
    (x[3], x[4], x[n - 1]) = (f32::NAN, -0.0, f32::NAN);
    let (mut y, mut dx, mut sum) = (dirty(n), dirty(n), dirty(n));
    relu(&x, &mut y);
    relu_backward(&y, &dy, &mut dx);
    add(&dx, &dy, &mut sum);
    add_to(&dy, &mut sum);
    for i in 0..n {
        let on = x[i] > 0.0 || x[i].is_nan();
        assert!(if x[i].is_nan() {
            y[i].is_nan()
        } else {
            y[i] == x[i].max(0.0)
        });
        assert_eq!(dx[i], if on { dy[i] } else { 0.0 });
        assert_eq!(sum[i], dx[i] + dy[i] + dy[i]);
    }
}

#[test]
fn pooling_and_shortcut() {
    for (images, height, width, channels) in
        [(1, 2, 2, 1), (2, 6, 4, 16), (3, 5, 7, 20), (2, 8, 8, 33)]
    {
        let shape = Images {
            images,
            height,
            width,
            channels,
        };
        // Few different values, so that windows have ties, and some NaN.
        let mut x: Vec<f32> = numbers(1, shape.len())
            .iter()
            .map(|x| (x * 2.0).round())
            .collect();
        x.iter_mut().skip(7).step_by(23).for_each(|x| *x = f32::NAN);
        let dy = numbers(2, shape.pooled_len());
        let (mut y, mut dx) = (dirty(dy.len()), dirty(x.len()));
        shape.max_pool(&x, &mut y);
        shape.max_pool_backward(&x, &dy, &mut dx);
        let mut dx64 = vec![0.0; x.len()];
        let at = |n, i, j, c| ((n * height + i) * width + j) * channels + c;
        let mut out = 0;
        for n in 0..images {
            for i in 0..height / 2 {
                for j in 0..width / 2 {
                    for c in 0..channels {
                        // As PyTorch does it.
                        let mut most = at(n, 2 * i, 2 * j, c);
                        for k in 1..4 {
                            let here = at(n, 2 * i + k / 2, 2 * j + k % 2, c);
                            if x[here] > x[most] || x[here].is_nan() {
                                most = here;
                            }
                        }
                        assert_eq!(y[out].to_bits(), x[most].to_bits(), "{shape:?} {out}");
                        dx64[most] = f64::from(dy[out]);
                        out += 1;
                    }
                }
            }
        }
        assert_close("dx of max pool", &dx, &dx64, 0.0);

        let x = numbers(1, shape.len());
        let dy = numbers(2, images * channels);
        let (mut y, mut dx) = (dirty(dy.len()), dirty(x.len()));
        shape.average(&x, &mut y);
        shape.average_backward(&dy, &mut dx);
        let pixels = height * width;
        let image = |i: usize| i / (pixels * channels) * channels + i % channels;
        let mut y64 = vec![0.0; y.len()];
        (0..x.len()).for_each(|i| y64[image(i)] += f64::from(x[i]) / pixels as f64);
        let dx64: Vec<f64> = (0..x.len())
            .map(|i| f64::from(dy[image(i)]) / pixels as f64)
            .collect();
        assert_close("average", &y, &y64, 1e-6);
        assert_close("dx of average", &dx, &dx64, 1e-7);

        for pad in [0, 4] {
            let dy = numbers(2, shape.shortcut_len(pad));
            let old = numbers(3, x.len());
            let (mut y, mut dx, mut more) = (dirty(dy.len()), dirty(x.len()), old.clone());
            shape.shortcut(pad, &x, &mut y);
            shape.shortcut_backward(pad, &dy, false, &mut dx);
            shape.shortcut_backward(pad, &dy, true, &mut more);
            let (mut y64, mut dx64) = (vec![0.0; y.len()], vec![0.0; x.len()]);
            let (h, w, c2) = (height.div_ceil(2), width.div_ceil(2), channels + 2 * pad);
            for n in 0..images {
                for i in 0..h {
                    for j in 0..w {
                        for c in 0..channels {
                            let to = ((n * h + i) * w + j) * c2 + pad + c;
                            y64[to] = f64::from(x[at(n, 2 * i, 2 * j, c)]);
                            dx64[at(n, 2 * i, 2 * j, c)] = f64::from(dy[to]);
                        }
                    }
                }
            }
            assert_close("shortcut", &y, &y64, 0.0);
            assert_close("dx of shortcut", &dx, &dx64, 0.0);
            let more64: Vec<f64> = dx64
                .iter()
                .zip(&old)
                .map(|(d, o)| d + f64::from(*o))
                .collect();
            assert_close("dx of shortcut", &more, &more64, 1e-7);
        }
    }
}

/// Distance in units of the last place of `want`'s f32 (at least the smallest normal number's).
fn ulps(got: f32, want: f64) -> f64 {
    let size = want.abs().max(f64::from(f32::MIN_POSITIVE));
    let ulp = 2f64.powi(size.log2().floor() as i32 - 23);
    (f64::from(got) - want).abs() / ulp
}

#[test]
fn exp_and_erf_to_the_last_places() {
    let grid = |low: f64, high: f64| -> Vec<f32> {
        let n = 400_001;
        (0..n)
            .map(|i| (low + (high - low) * i as f64 / (n - 1) as f64) as f32)
            .collect()
    };
    let worst = |x: &[f32], f: fn(&[f32], &mut [f32]), exact: fn(f64) -> f64| {
        let mut y = dirty(x.len());
        f(x, &mut y);
        x.iter()
            .zip(y)
            .map(|(&x, y)| ulps(y, exact(f64::from(x))))
            .fold(0.0, f64::max)
    };
    let e = worst(&grid(-104.0, 88.7), exp_all, f64::exp).max(worst(
        &grid(-1.0, 1.0),
        exp_all,
        f64::exp,
    ));
    assert!(e <= 1.1, "exp: {e} ulp");
    // The C library's erf is right to the last place of f64.
    let e = worst(&grid(-4.5, 4.5), erf_all, libm_erf).max(worst(
        &grid(-1e-3, 1e-3),
        erf_all,
        libm_erf,
    ));
    assert!(e <= 2.0, "erf: {e} ulp");

    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -0.0,
        1e-40,
        200.0,
        -200.0,
    ];
    let (mut e, mut r) = (dirty(8), dirty(8));
    exp_all(&special, &mut e);
    erf_all(&special, &mut r);
    assert!(e[0].is_nan() && r[0].is_nan());
    assert_eq!(
        e[1..],
        [f32::INFINITY, 0.0, 1.0, 1.0, 1.0, f32::INFINITY, 0.0]
    );
    assert_eq!(r[1..3], [1.0, -1.0]);
    assert_eq!(r[3..5], [0.0, 0.0]);
    assert!(ulps(r[5], libm_erf(f64::from(special[5]))) <= 2.0);
    assert_eq!(r[6..], [1.0, -1.0]);
}

fn libm_erf(x: f64) -> f64 {
    unsafe extern "C" {
        safe fn erf(x: f64) -> f64;
    }
    erf(x)
}

#[test]
fn gelu_and_its_gradient() {
    let n = 40_003;
    let x: Vec<f32> = numbers(1, n).iter().map(|x| x * 6.0).collect();
    let dy = numbers(2, n);
    let (mut y, mut dx) = (dirty(n), dirty(n));
    gelu(&x, &mut y);
    gelu_backward(&x, &dy, &mut dx);
    let phi = |x: f64| 0.5 * (1.0 + libm_erf(x / 2f64.sqrt()));
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let x64 = f64s(&x);
    let y64: Vec<f64> = x64.iter().map(|&x| x * phi(x)).collect();
    let dx64: Vec<f64> = x64
        .iter()
        .zip(&dy)
        .map(|(&x, &dy)| f64::from(dy) * (phi(x) + x * density(x)))
        .collect();
    assert_close("gelu", &y, &y64, 3e-7);
    assert_close("dx of gelu", &dx, &dx64, 3e-7);
}

#[test]
fn silu_and_relu_squared_and_their_gradients() {
    let n = 40_003;
    let x: Vec<f32> = numbers(1, n).iter().map(|x| x * 20.0).collect();
    let dy = numbers(2, n);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let slope = |x: f64| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)));
    let apply = |f: &dyn Fn(f64) -> f64| -> Vec<f64> { f64s(&x).into_iter().map(f).collect() };
    let gradient = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
        let terms = f64s(&x).into_iter().zip(f64s(&dy));
        terms.map(|(x, dy)| dy * f(x)).collect()
    };
    let (mut y, mut dx) = (dirty(n), dirty(n));
    silu(&x, &mut y);
    silu_backward(&x, &dy, &mut dx);
    assert_close("silu", &y, &apply(&|x| x * sigmoid(x)), 3e-7);
    assert_close("dx of silu", &dx, &gradient(&slope), 6e-7);
    relu_squared(&x, &mut y);
    relu_squared_backward(&x, &dy, &mut dx);
    assert_close("relu^2", &y, &apply(&|x| x.max(0.0).powi(2)), 1e-7);
    assert_close("dx of relu^2", &dx, &gradient(&|x| 2.0 * x.max(0.0)), 2e-7);
    relu_squared(&[f32::NAN, -0.0], &mut y[..2]);
    assert!(y[0].is_nan() && y[1] == 0.0);

    for half in [1, 19, 500] {
        let rows = n / 2 / half;
        let (x, dy) = (&x[..2 * rows * half], &dy[..rows * half]);
        let (mut y, mut dx) = (dirty(dy.len()), dirty(x.len()));
        swiglu(x, half, &mut y);
        swiglu_backward(x, half, dy, &mut dx);
        let (mut y64, mut dx64) = (vec![], vec![]);
        for (x, dy) in f64s(x).chunks(2 * half).zip(f64s(dy).chunks(half)) {
            let (a, b) = x.split_at(half);
            y64.extend((0..half).map(|i| a[i] * sigmoid(a[i]) * b[i]));
            dx64.extend((0..half).map(|i| dy[i] * b[i] * slope(a[i])));
            dx64.extend((0..half).map(|i| dy[i] * a[i] * sigmoid(a[i])));
        }
        assert_close("swiglu", &y, &y64, 5e-7);
        assert_close("dx of swiglu", &dx, &dx64, 1e-6);
    }
}

#[test]
fn norms_and_their_gradients() {
    let shapes = [(1, 1), (3, 5), (70, 48), (65, 512), (33, 100)];
    for (centred, (rows, width)) in [true, false]
        .into_iter()
        .flat_map(|c| shapes.map(|s| (c, s)))
    {
        let eps = if centred { 1e-5 } else { 1e-2 };
        let norm = Norm {
            rows,
            width,
            centred,
            eps,
        };
        let n = rows * width;
        let x: Vec<f32> = numbers(1, n).iter().map(|x| x * 2.0 + 3.0).collect();
        let (gamma, dy) = (numbers(2, width), numbers(4, n));
        let beta = numbers(3, if centred { width } else { 0 });
        let [y, dx, dgamma, dbeta] = on_pools(|_| {
            let (mut saved, mut y, mut dx) = (dirty(norm.saved()), dirty(n), dirty(n));
            let (mut dgamma, mut dbeta) = (dirty(width), dirty(beta.len()));
            let mut ws = dirty(norm.workspace());
            norm.forward(&x, &gamma, &beta, &mut saved, &mut y);
            let parameters = (&mut dgamma[..], &mut dbeta[..]);
            norm.backward(&x, &gamma, &saved, &dy, false, &mut dx, parameters, &mut ws);
            let sums = [bits(&dgamma), bits(&dbeta)];
            let parameters = (&mut dgamma[..], &mut dbeta[..]);
            norm.backward(&x, &gamma, &saved, &dy, false, &mut [], parameters, &mut ws);
            assert_eq!(sums, [bits(&dgamma), bits(&dbeta)], "without dx");
            let mut twice = dx.clone();
            let parameters = (&mut dgamma[..], &mut dbeta[..]);
            norm.backward(
                &x, &gamma, &saved, &dy, true, &mut twice, parameters, &mut ws,
            );
            assert!(twice.iter().zip(&dx).all(|(twice, dx)| *twice == 2.0 * dx));
            [bits(&y), bits(&dx), bits(&dgamma), bits(&dbeta)]
        })
        .map(|bits| floats(&bits));
        let (mut y64, mut dx64) = (vec![], vec![]);
        let (mut dgamma64, mut dbeta64) = (vec![0.0; width], vec![0.0; beta.len()]);
        for (x, dy) in f64s(&x).chunks(width).zip(f64s(&dy).chunks(width)) {
            let mean_of = |f: &dyn Fn(usize) -> f64| (0..width).map(f).sum::<f64>() / width as f64;
            let centre = |f: &dyn Fn(usize) -> f64| if centred { mean_of(f) } else { 0.0 };
            let mean = centre(&|i| x[i]);
            let rstd = 1.0 / (mean_of(&|i| (x[i] - mean).powi(2)) + f64::from(eps)).sqrt();
            let hat = |i: usize| (x[i] - mean) * rstd;
            let g = |i: usize| dy[i] * f64::from(gamma[i]);
            let (mean_g, mean_gx) = (centre(&g), mean_of(&|i| g(i) * hat(i)));
            for i in 0..width {
                let beta = beta.get(i).map_or(0.0, |b| f64::from(*b));
                y64.push(f64::from(gamma[i]) * hat(i) + beta);
                dx64.push(rstd * (g(i) - mean_g - hat(i) * mean_gx));
                dgamma64[i] += dy[i] * hat(i);
                if centred {
                    dbeta64[i] += dy[i];
                }
            }
        }
        // Rows of one entry have no variance: 1 / sqrt(eps) magnifies rounding.
        let tolerance = if width == 1 { 1e-4 } else { 2e-6 };
        assert_close("y", &y, &y64, tolerance);
        assert_close("dx", &dx, &dx64, tolerance);
        assert_close("dgamma", &dgamma, &dgamma64, 4e-6);
        assert_close("dbeta", &dbeta, &dbeta64, 4e-6);
    }
}

#[test]
fn token_embedding_and_its_gradient() {
    for (tokens, codes, dim) in [(1, 1, 1), (700, 92, 48), (70, 2000, 5), (300, 33, 3)] {
        let table = numbers(1, codes * dim);
        let dy = numbers(2, tokens * dim);
        // Every third token is the same.
        let code = |t: usize| {
            if t.is_multiple_of(3) {
                codes - 1
            } else {
                t * 7 % codes
            }
        };
        let picks: Vec<f32> = (0..tokens).map(|t| code(t) as f32).collect();
        let [y, dtable] = on_pools(|_| {
            let (mut y, mut dtable) = (dirty(dy.len()), dirty(table.len()));
            embed(&table, &picks, &mut y);
            embed_backward(&picks, &dy, &mut dtable);
            [bits(&y), bits(&dtable)]
        })
        .map(|bits| floats(&bits));
        let mut dtable64 = vec![0.0; table.len()];
        for (t, (y, dy)) in y.chunks(dim).zip(f64s(&dy).chunks(dim)).enumerate() {
            assert_eq!(*y, table[code(t) * dim..][..dim]);
            for (i, dy) in dy.iter().enumerate() {
                dtable64[code(t) * dim + i] += dy;
            }
        }
        assert_close("dtable", &dtable, &dtable64, 5e-6);
    }
}

#[test]
fn attention_and_its_gradients() {
    for (sequences, tokens, heads, head_dim) in
        [(1, 1, 1, 1), (3, 5, 2, 7), (4, 65, 3, 64), (4, 16, 2, 32)]
    {
        let shape = Attention {
            sequences,
            tokens,
            heads,
            head_dim,
        };
        let (out_len, p_len) = (shape.output_len(), shape.probabilities_len());
        let (qkv, d_o) = (numbers(1, 3 * out_len), numbers(2, out_len));
        let (square, inner) = (tokens * tokens, heads * head_dim);
        let bias = numbers(3, 2 * square);
        let keep: Vec<f32> = numbers(4, p_len)
            .iter()
            .map(|x| if *x > -0.6 { 1.25 } else { 0.0 })
            .collect();
        for extras in [false, true] {
            let keep = extras.then_some(&keep[..]);
            let factors = |i: usize, to: &mut [f32]| {
                to.copy_from_slice(&keep.expect("factors")[i * square..][..square]);
            };
            let keep_fn = extras.then_some(&factors as Keep);
            let bias = extras.then_some(&bias[..]);
            let [p, o, ds, dqkv] = on_pools(|threads| {
                let (mut p, mut o) = (dirty(p_len), dirty(out_len));
                let mut ws = dirty(shape.workspace(threads));
                shape.forward(&qkv, bias, keep_fn, &mut p, &mut o, &mut ws);
                let (mut ds, mut dqkv) = (dirty(p_len), dirty(qkv.len()));
                let mut ws = dirty(shape.workspace(threads));
                shape.backward(&qkv, keep_fn, &p, &d_o, &mut ds, &mut dqkv, &mut ws);
                [bits(&p), bits(&o), bits(&ds), bits(&dqkv)]
            })
            .map(|bits| floats(&bits));
            let (mut p64, mut ds64) = (vec![0.0; p_len], vec![0.0; p_len]);
            let (mut o64, mut dqkv64) = (vec![0.0; out_len], vec![0.0; qkv.len()]);
            let scale = 1.0 / (head_dim as f64).sqrt();
            for b in 0..sequences {
                for h in 0..heads {
                    let part = |part: usize, t: usize, d: usize| {
                        ((b * tokens + t) * 3 + part) * inner + h * head_dim + d
                    };
                    let value = |k: usize, t: usize, d: usize| f64::from(qkv[part(k, t, d)]);
                    let out = |t: usize, d: usize| (b * tokens + t) * inner + h * head_dim + d;
                    let at = |t: usize, u: usize| ((b * heads + h) * tokens + t) * tokens + u;
                    let kept =
                        |t: usize, u: usize| keep.map_or(1.0, |keep| f64::from(keep[at(t, u)]));
                    for t in 0..tokens {
                        let e: Vec<f64> = (0..tokens)
                            .map(|u| {
                                let dot: f64 =
                                    (0..head_dim).map(|d| value(0, t, d) * value(1, u, d)).sum();
                                let bias = bias
                                    .map_or(0.0, |x| f64::from(x[b % 2 * square + t * tokens + u]));
                                (scale * dot + bias).exp()
                            })
                            .collect();
                        let total: f64 = e.iter().sum();
                        let mut dp = vec![0.0; tokens];
                        for u in 0..tokens {
                            p64[at(t, u)] = e[u] / total;
                            for d in 0..head_dim {
                                let weight = p64[at(t, u)] * kept(t, u);
                                let d_o = f64::from(d_o[out(t, d)]);
                                o64[out(t, d)] += weight * value(2, u, d);
                                dqkv64[part(2, u, d)] += weight * d_o;
                                dp[u] += d_o * value(2, u, d) * kept(t, u);
                            }
                        }
                        let dot: f64 = (0..tokens).map(|u| dp[u] * p64[at(t, u)]).sum();
                        for u in 0..tokens {
                            let ds = p64[at(t, u)] * (dp[u] - dot);
                            ds64[at(t, u)] = ds;
                            for d in 0..head_dim {
                                dqkv64[part(0, t, d)] += scale * ds * value(1, u, d);
                                dqkv64[part(1, u, d)] += scale * ds * value(0, t, d);
                            }
                        }
                    }
                }
            }
            assert_close("p", &p, &p64, 1e-6);
            assert_close("o", &o, &o64, 1e-6);
            assert_close("ds", &ds, &ds64, 1e-6);
            assert_close("dqkv", &dqkv, &dqkv64, 2e-6);
        }
    }
}

#[test]
fn causal_attention_and_its_gradients() {
    // Heads of one block of rows, of several, and of some of its rows more.
    for (sequences, tokens, heads, head_dim, base) in [
        (1, 1, 1, 1, None),
        (2, 9, 2, 6, Some(3.0f32)),
        (1, 64, 2, 16, None),
        (2, 150, 3, 8, Some(500_000.0)),
    ] {
        let turns = base.map(|base| Turns::new(tokens, head_dim, base));
        let attention = CausalAttention {
            sequences,
            tokens,
            heads,
            head_dim,
            turns,
        };
        let len = attention.output_len();
        let (qkv, d_o) = (numbers(1, 3 * len), numbers(2, len));
        let [o, dqkv] = on_pools(|threads| {
            let (mut l, mut o) = (dirty(attention.rows()), dirty(len));
            let mut ws = dirty(attention.forward_workspace(threads));
            attention.forward(&qkv, &mut l, &mut o, &mut ws);
            let (mut dqkv, mut ws) = (dirty(3 * len), dirty(attention.backward_workspace(threads)));
            attention.backward(&qkv, &l, &o, &d_o, &mut dqkv, &mut ws);
            [bits(&o), bits(&dqkv)]
        })
        .map(|bits| floats(&bits));

        let (mut o64, mut dqkv64) = (vec![0.0; len], vec![0.0; 3 * len]);
        let scale = 1.0 / (head_dim as f64).sqrt();
        for (sequence, head) in (0..sequences).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let at = |part: usize, t: usize| {
                ((sequence * tokens + t) * 3 + part) * heads * head_dim + head * head_dim
            };
            let out = |t: usize| (sequence * tokens + t) * heads * head_dim + head * head_dim;
            // Sign -1 turns back.
            let turned = |x: &[f64], t: usize, sign: f64| -> Vec<f64> {
                let Some(base) = base else { return x.to_vec() };
                let pairs = x.chunks(2).enumerate();
                pairs
                    .flat_map(|(j, x)| {
                        let angle =
                            t as f64 * f64::from(base).powf(-2.0 * j as f64 / head_dim as f64);
                        let (sin, cos) = (sign * angle.sin(), angle.cos());
                        [x[0] * cos - x[1] * sin, x[1] * cos + x[0] * sin]
                    })
                    .collect()
            };
            let row = |part: usize, t: usize| f64s(&qkv[at(part, t)..][..head_dim]);
            let rows = |part: usize| -> Vec<Vec<f64>> {
                let rows = (0..tokens).map(|t| row(part, t));
                match part {
                    2 => rows.collect(),
                    _ => rows.enumerate().map(|(t, x)| turned(&x, t, 1.0)).collect(),
                }
            };
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let (q, k, v) = (rows(0), rows(1), rows(2));
            let mut d = [(); 3].map(|()| vec![vec![0.0; head_dim]; tokens]);
            let add = |to: &mut [f64], factor: f64, x: &[f64]| {
                to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
            };
            for i in 0..tokens {
                let e: Vec<f64> = (0..=i).map(|j| (scale * dot(&q[i], &k[j])).exp()).collect();
                let total: f64 = e.iter().sum();
                let d_o = f64s(&d_o[out(i)..][..head_dim]);
                let dp: Vec<f64> = (0..=i).map(|j| dot(&d_o, &v[j])).collect();
                let mean: f64 = dot(&e, &dp) / total;
                for j in 0..=i {
                    let p = e[j] / total;
                    add(&mut o64[out(i)..][..head_dim], p, &v[j]);
                    add(&mut d[2][j], p, &d_o);
                    let ds = scale * p * (dp[j] - mean);
                    add(&mut d[0][i], ds, &k[j]);
                    add(&mut d[1][j], ds, &q[i]);
                }
            }
            for (part, d) in d.iter().enumerate() {
                for (t, d) in d.iter().enumerate() {
                    let d = if part < 2 {
                        turned(d, t, -1.0)
                    } else {
                        d.clone()
                    };
                    dqkv64[at(part, t)..][..head_dim].copy_from_slice(&d);
                }
            }
        }
        assert_close("o", &o, &o64, 1e-6);
        assert_close("dqkv", &dqkv, &dqkv64, 3e-6);
    }
}

#[test]
fn cross_entropy_and_its_gradient() {
    for (n, width) in [(1, 1), (5, 10), (300, 100), (3, 1000)] {
        let x: Vec<f32> = numbers(1, n * width).iter().map(|x| x * 20.0).collect();
        let labels: Vec<f32> = (0..n).map(|i| (i * 7 % width) as f32).collect();
        let (mut losses, mut dx) = (dirty(n), dirty(x.len()));
        cross_entropy(&x, &labels, width, 0.0, &mut losses, &mut dx);
        let (mut losses64, mut dx64) = (vec![], vec![]);
        for (x, &label) in f64s(&x).chunks(width).zip(&labels) {
            let sum: f64 = x.iter().map(|x| x.exp()).sum();
            losses64.push(sum.ln() - x[label as usize]);
            for (j, x) in x.iter().enumerate() {
                let hot = if j == label as usize { 1.0 } else { 0.0 };
                dx64.push((x.exp() / sum - hot) / n as f64);
            }
        }
        assert_close("losses", &losses, &losses64, 1e-6);
        assert_close("dx", &dx, &dx64, 1e-6);
    }
    let (mut losses, mut dx) = (dirty(1), dirty(3));
    cross_entropy(&[0.0, f32::NAN, 1.0], &[0.0], 3, 0.0, &mut losses, &mut dx);
    assert!(losses[0].is_nan() && dx.iter().all(|dx| dx.is_nan()));
}
