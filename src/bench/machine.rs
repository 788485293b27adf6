//! What the machine itself can do, and its clock.

use super::Measured;
use crate::device::gpu::{Gpu, Precision, Program, Queue, View, elementwise, kernels};
use crate::device::{Device, Slot};
use crate::error::Result;
use crate::ops::distance;

/// Runs of which the median is taken, after a few that warm up.
const RUNS: usize = 31;
const WARM_UP: usize = 5;

/// Floats that are written between runs, so that the L2 cache holds nothing of the last one.
const FLUSH: usize = 64 << 20;

pub(super) const COPY: &str = "copy";

pub(super) fn peak_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Fp32 => "peak_fp32",
        Precision::Tf32 => "peak_tf32",
    }
}

/// The median of what a clock says.
pub(super) fn median(mut clock: impl FnMut() -> Result<f64>) -> Result<f64> {
    for _ in 0..WARM_UP {
        clock()?;
    }
    let mut times = (0..RUNS).map(|_| clock()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}

/// Times programs on a GPU that does not remember what they read last.
pub(super) struct Meter {
    gpu: Gpu,
    flush: Program,
    halves: [View<f32>; 2],
}

impl Meter {
    /// None where times mean nothing.
    pub fn open(device: Device) -> Result<Option<Meter>> {
        if !matches!(device, Device::Cuda(_)) {
            return Ok(None);
        }
        let mut gpu = Gpu::open(device)?;
        let all: View<f32> = gpu.alloc("other data", FLUSH)?;
        let half = FLUSH / 2;
        let halves = [all.part(0, half), all.part(half, half)];
        let flush = copy(&mut gpu, halves)?;
        Ok(Some(Meter { gpu, flush, halves }))
    }

    /// The median times of programs, each run after the cache was filled with other data.
    pub fn medians<const N: usize>(
        &mut self,
        gpu: &mut Gpu,
        programs: [Program; N],
    ) -> Result<[f64; N]> {
        let mut times = [0.0; N];
        for (time, program) in times.iter_mut().zip(programs) {
            *time = median(|| {
                // It waits: the other machine has a queue of its own.
                self.gpu.time(self.flush)?;
                gpu.time(program)
            })?;
        }
        Ok(times)
    }
}

fn copy(gpu: &mut Gpu, [from, to]: [View<f32>; 2]) -> Result<Program> {
    let mut queue = Queue::default();
    kernels::add_bwd(&mut queue, elementwise(from.len), from, to, from.len as i64);
    gpu.prepare(queue)
}

/// Copies, and multiply-adds alone; a few of them where there is no meter.
pub(super) fn peaks(device: Device, meter: Option<&mut Meter>) -> Result<Vec<Measured>> {
    let small = meter.is_none();
    let mut peaks = Vec::new();
    let measured = |name: &str, about: String| Measured {
        name: name.to_owned(),
        about,
        part: "both",
        launches: 1,
        bytes: 0,
        flops: 0,
        precision: None,
        seconds: None,
        error: 0.0,
    };
    let mut time: Box<dyn FnMut(&mut Gpu, Program) -> Result<Option<f64>>> = match meter {
        Some(meter) => {
            let bytes = 2 * meter.halves[0].len * size_of::<f32>();
            let mut copied = measured(COPY, format!("{} MiB", bytes >> 21));
            copied.bytes = bytes;
            let (gpu, program) = (&mut meter.gpu, meter.flush);
            copied.seconds = Some(median(|| gpu.time(program))?);
            peaks.push(copied);
            Box::new(|gpu, program| median(|| gpu.time(program)).map(Some))
        }
        None => {
            const N: usize = 3001;
            let mut gpu = Gpu::open(device)?;
            let x: Vec<f32> = (0..N).map(|i| i as f32).collect();
            let from = gpu.alloc_with("numbers", &x)?;
            let to = gpu.alloc("a copy", N)?;
            let program = copy(&mut gpu, [from, to])?;
            gpu.run(program)?;
            let mut copied = measured(COPY, format!("{N} numbers"));
            copied.bytes = 2 * N * size_of::<f32>();
            copied.error = distance(&gpu.download(to)?, &x);
            peaks.push(copied);
            Box::new(|_, _| Ok(None))
        }
    };
    // More blocks than any GPU runs at a time, so that the last of them weigh little.
    let blocks = if small { 1 } else { 1 << 15 };
    for precision in [Precision::Fp32, Precision::Tf32] {
        let mut gpu = Gpu::open(device)?;
        let n = blocks * THREADS;
        gpu.alloc_with("sums", &vec![f32::NAN; n])?;
        let out = Slot { start: 0, len: n };
        let mut queue = Queue::default();
        // Flops of a thread in a round, and its sum after all rounds.
        let (rounds, flops, sum) = match precision {
            Precision::Fp32 => {
                let rounds = if small { 3 } else { 256 };
                kernels::peak_fp32(&mut queue, blocks, out, 0.5, 1.0, rounds);
                let left = 0.5f64.powi(rounds);
                (rounds, 2 * 16, 120.0 * left + 32.0 * (1.0 - left))
            }
            Precision::Tf32 => {
                let rounds = if small { 3 } else { 64 };
                kernels::peak_tf32(&mut queue, blocks, out, rounds);
                let product = 2 * 16 * 8 * 8 / 32;
                (rounds, 8 * product, f64::from(32 * rounds))
            }
        };
        let program = gpu.prepare(queue)?;
        gpu.run(program)?;
        let sums: Vec<f32> = gpu.download(out)?;
        let name = peak_name(precision);
        let mut peak = measured(name, format!("{blocks} blocks, {rounds} rounds"));
        peak.bytes = n * size_of::<f32>();
        peak.flops = n * flops * rounds as usize;
        peak.precision = Some(precision);
        peak.error = distance(&sums, &vec![sum as f32; n]);
        peak.seconds = time(&mut gpu, program)?;
        peaks.push(peak);
    }
    Ok(peaks)
}

/// Of a block of the kernels in `kernels/peak.cu`.
const THREADS: usize = 256;
