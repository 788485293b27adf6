//! The emulation itself: what it computes, and that it finds planted errors.

use super::super::gpu::{Body, kernels as real};
use super::super::{Device, Machine, Prepared, Program, Target, View};
use super::{Order, Schedule};

pub(crate) mod planted {
    include!(concat!(env!("OUT_DIR"), "/kernels_of_tests.rs"));
}

use planted as k;

/// A machine with one queue to fill and run.
struct Bench {
    gpu: Machine,
}

impl Bench {
    fn new(schedule: Schedule) -> Bench {
        let gpu = Machine::emulator(schedule, None).unwrap();
        Bench { gpu }
    }

    fn plain() -> Bench {
        Bench::new(Schedule::default())
    }

    fn buffer<T: bytemuck::Pod>(&mut self, values: &[T]) -> View<T> {
        self.gpu.alloc_with("a buffer", values).unwrap()
    }

    fn program(&mut self, fill: impl FnOnce(&mut Program)) -> Prepared {
        let mut program = Program::new(Target {
            device: Device::Emulator,
            precision: None,
        });
        fill(&mut program);
        self.gpu.prepare(program).unwrap()
    }

    fn run(&mut self, fill: impl FnOnce(&mut Program)) {
        let program = self.program(fill);
        self.gpu.run(program).unwrap();
    }

    /// The report of a run that must fail.
    fn fault(&mut self, fill: impl FnOnce(&mut Program)) -> String {
        let program = self.program(fill);
        let error = self.gpu.run(program).expect_err("an error was planted");
        assert_eq!(error.kind.exit_code(), 1);
        error.message
    }

    fn read<T: bytemuck::Pod>(&mut self, view: View<T>) -> Vec<T> {
        self.gpu.download(view).unwrap()
    }
}

fn expect(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn the_build_reads_parameters_as_the_compiler_does() {
    for kernel in real::KERNELS.iter().chain(k::KERNELS) {
        let Body::Built { record, .. } = &kernel.body else {
            panic!("{}: text", kernel.name)
        };
        let record = record.unwrap();
        // SAFETY: constants of the C++ code, as long as they say.
        let (name, parameters) = unsafe {
            (
                std::ffi::CStr::from_ptr(record.name),
                std::slice::from_raw_parts(record.parameters, record.count as usize),
            )
        };
        assert_eq!(name.to_str().unwrap(), kernel.name);
        assert_eq!(record.threads, kernel.threads, "{}", kernel.name);
        let seen = parameters
            .iter()
            .map(|p| (char::from_u32(p.code).unwrap(), p.size));
        let written = kernel.parameters.iter().map(|p| (p.code, p.size));
        assert!(seen.eq(written), "{}", kernel.name);
    }
}

#[test]
fn warps_exchange_under_every_schedule() {
    for schedule in Schedule::all() {
        let mut bench = Bench::new(schedule);
        let out = bench.buffer(&[0u32; 192]);
        bench.run(|q| k::warp_exchange(q, 1, out));
        let out = bench.read(out);
        let votes = |warp: u32| {
            let set = (0..32u32).filter(|lane| (warp * 32 + lane).is_multiple_of(3));
            set.map(|lane| 1u32 << lane).sum::<u32>()
        };
        for t in 0..64u32 {
            let (lane, base) = (t % 32, t / 32 * 32);
            let up = if lane % 16 < 3 { t } else { t - 3 };
            let down = if lane + 9 > 31 { t } else { t + 9 };
            let x = ((up * 64 + base + (lane & !7) + 5) * 64 + down) * 64 + (base + (lane ^ 6));
            assert_eq!(out[t as usize], x, "thread {t}");
            let ballot = votes(t / 32) + u32::from(t >= 32);
            assert_eq!(out[64 + t as usize], ballot, "thread {t}");
            assert_eq!(out[128 + t as usize], 13 * 4 + 2, "thread {t}");
        }
        let half = bench.buffer(&[0i32; 16]);
        bench.run(|q| k::half_warp(q, 1, half));
        assert_eq!(bench.read(half), [240; 16]);
    }
}

#[test]
fn atomics_and_sums() {
    let mut bench = Bench::plain();
    let (count, total, largest) = (
        bench.buffer(&[0i32]),
        bench.buffer(&[0f32]),
        bench.buffer(&[0i32]),
    );
    bench.run(|q| k::count_with_atomics(q, 300, count, total, largest));
    assert_eq!(bench.read(count), [76_800]);
    assert_eq!(bench.read(total), [38_400.0]);
    assert_eq!(bench.read(largest), [76_799]);
    let x: Vec<f32> = (0..96).map(|i| i as f32).collect();
    let (x, out) = (bench.buffer(&x), bench.buffer(&[0f64; 2]));
    bench.run(|q| k::sum_of_block(q, 1, x, out));
    assert_eq!(bench.read(out), [4560.0, 96.0]);
}

#[test]
fn philox_is_that_of_the_host() {
    use crate::random::philox::philox4x32_10;
    let mut bench = Bench::plain();
    let out = bench.buffer(&[0u32; 4]);
    for (key, low, high) in [(0, 0, 0), (u64::MAX, u64::MAX, u64::MAX), (3, 1 << 40, 77)] {
        bench.run(|q| k::philox_words(q, 1, key, low, high, out));
        let expected = philox4x32_10(key, u128::from(high) << 64 | u128::from(low));
        assert_eq!(bench.read(out), expected);
    }
}

#[test]
fn bfloat16_products_of_fragments() {
    let draws = |n: usize, k: u32| -> Vec<f32> {
        // Few bits, so that rounding to bfloat16 and sums are exact.
        (0..n as u32)
            .map(|i| ((i * k + 5) % 17) as f32 - 8.0)
            .collect()
    };
    let (a, b) = (draws(256, 7), draws(128, 11));
    let mut bench = Bench::plain();
    let (va, vb, c) = (
        bench.buffer(&a),
        bench.buffer(&b),
        bench.buffer(&[0f32; 128]),
    );
    bench.run(|q| k::bf16_product(q, 1, va, vb, c));
    for (i, c) in bench.read(c).into_iter().enumerate() {
        let sum: f32 = (0..16).map(|k| a[i / 8 * 16 + k] * b[k * 8 + i % 8]).sum();
        assert_eq!(c, sum, "entry {i}");
    }
}

#[test]
fn asynchronous_copies_under_every_schedule() {
    let x: Vec<f32> = (0..160).map(|i| i as f32).collect();
    for schedule in Schedule::all() {
        let mut bench = Bench::new(schedule);
        let (x, y) = (bench.buffer(&x), bench.buffer(&[0f32; 160]));
        bench.run(|q| k::copied_twice(q, 1, x, y, 5));
        let reversed = |i: usize| 2 * (i / 32 * 32 + 31 - i % 32);
        let y = bench.read(y);
        assert!(y.iter().enumerate().all(|(i, y)| *y == reversed(i) as f32));
    }
}

#[test]
fn planted_errors_are_found_and_survived() {
    for _ in 0..3 {
        let mut bench = Bench::plain();
        let y = bench.buffer(&[0f32; 1000]);
        let text = bench.fault(|q| k::writes_too_far(q, 4, y));
        let parts = [
            "kernel writes_too_far, block (3,0,0), thread 232",
            "invalid write 0 bytes past the end of y of writes_too_far (4000 bytes)",
        ];
        expect(&text, &parts);
        // Not a multiple of 16 bytes: the rest is looked at after the launch.
        let odd = bench.buffer(&[0f32; 255]);
        let text = bench.fault(|q| k::writes_too_far(q, 1, odd));
        expect(&text, &["bytes behind y were written"]);
        // A part of a buffer is all that a kernel may touch.
        let text = bench.fault(|q| k::writes_too_far(q, 1, y.part(0, 128)));
        expect(&text, &["thread 128", "past the end of y"]);
        let x = bench.buffer(&[0f32; 1024]);
        let text = bench.fault(|q| k::reads_before(q, 1, x, y));
        expect(&text, &["invalid read 32 bytes before x of reads_before"]);
        let text = bench.fault(|q| k::returns_before_barrier(q, 1, y));
        expect(&text, &["255 of 256 threads wait in __syncthreads"]);
        let text = bench.fault(|q| k::two_barriers(q, 1, y));
        expect(&text, &["divergent barrier", "tests.cu"]);
        let ints = bench.buffer(&[0i32; 64]);
        let text = bench.fault(|q| k::shuffle_in_branch(q, 1, ints));
        expect(&text, &["deadlock", "threads 0 to 15 wait in __shfl_sync"]);
        let text = bench.fault(|q| k::masks_differ(q, 1, ints));
        expect(&text, &["mask"]);
        let text = bench.fault(|q| k::row_too_short(q, 1, y));
        expect(
            &text,
            &["index 32 is out of the array's bounds", "tests.cu"],
        );
        let short = real_grid(1, 128);
        let text = bench.fault(|q| k::dynamic_too_short(q, short, y));
        expect(&text, &["thread 32", "dynamic shared memory (128 bytes)"]);
        let text = bench.fault(|q| k::misaligned(q, 1, y));
        expect(&text, &["misaligned", "tests.cu"]);
        let text = bench.fault(|q| k::large_frame(q, 1, ints, 1));
        expect(&text, &["stack overflow"]);
        let text = bench.fault(|q| k::writes_too_far(q, real_grid(1, 1 << 20), y));
        expect(&text, &["1048576 bytes of dynamic shared memory"]);
    }
}

fn real_grid(blocks: usize, shared: u32) -> super::super::gpu::Grid {
    super::super::gpu::Grid {
        shared,
        ..blocks.into()
    }
}

#[test]
fn a_kernel_that_does_not_end_is_given_up() {
    let mut bench = Bench::new(Schedule {
        timeout_ms: 50,
        ..Schedule::default()
    });
    let flag = bench.buffer(&[0i32]);
    let text = bench.fault(|q| k::spins(q, 1, flag));
    expect(&text, &["still running after 50 ms"]);
}

#[test]
fn schedules_show_what_no_order_alone_does() {
    let missing_barrier = |schedule| {
        let mut bench = Bench::new(schedule);
        let y = bench.buffer(&[0i32; 64]);
        bench.run(|q| k::no_barrier(q, 1, y));
        bench.read(y)
    };
    let results = Schedule::all().map(missing_barrier);
    assert_ne!(results[0], results[1]);
    let missing_wait = |early_copies| {
        let mut bench = Bench::new(Schedule {
            early_copies,
            order: Order::Forward,
            ..Schedule::default()
        });
        let (x, y) = (bench.buffer(&[1f32; 32]), bench.buffer(&[0f32; 32]));
        bench.run(|q| k::no_wait(q, 1, x, y));
        bench.read(y)
    };
    assert!(missing_wait(0).iter().all(|y| y.is_nan()));
    assert_eq!(missing_wait(1), [1.0; 32]);
}

#[test]
fn buffers_are_not_written_by_a_launch_that_fails() {
    let mut bench = Bench::plain();
    let y = bench.buffer(&[7f32; 100]);
    bench.fault(|q| k::writes_too_far(q, 1, y));
    assert_eq!(bench.read(y), [7.0; 100]);
}
