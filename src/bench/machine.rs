//! What the machine itself can do, and its clock.

use super::{Measured, Shapes};
use crate::device::gpu::{Precision, kernels};
use crate::device::{Device, Machine, Prepared, Program, Slot, Target, View};
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
fn median(mut clock: impl FnMut() -> Result<f64>) -> Result<f64> {
    for _ in 0..WARM_UP {
        clock()?;
    }
    let mut times = (0..RUNS).map(|_| clock()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}

/// Median times of programs: none on the emulator, where they say nothing.
pub(super) fn seconds<const N: usize>(
    machine: &mut Machine,
    device: Device,
    shapes: Shapes,
    programs: [Prepared; N],
) -> Result<[Option<f64>; N]> {
    match device {
        Device::Emulator | Device::Plan => Ok([None; N]),
        Device::Cuda(_) => Ok(times(machine, shapes, programs)?.map(Some)),
        Device::Cpu => {
            let mut seconds = [None; N];
            for (seconds, program) in seconds.iter_mut().zip(programs) {
                *seconds = Some(median(|| machine.time(program))?);
            }
            Ok(seconds)
        }
    }
}

/// Median times of programs on a GPU, each run behind a copy of other data: it empties the cache, and the GPU is at work
/// while the host starts what is timed.
fn times<const N: usize>(
    gpu: &mut Machine,
    shapes: Shapes,
    programs: [Prepared; N],
) -> Result<[f64; N]> {
    let floats = match shapes {
        Shapes::Experiments => FLUSH,
        Shapes::Small => 1000,
    };
    times_behind(gpu, floats, programs)
}

fn times_behind<const N: usize>(
    gpu: &mut Machine,
    floats: usize,
    programs: [Prepared; N],
) -> Result<[f64; N]> {
    let other: View<f32> = gpu.alloc("other data", floats)?;
    let half = floats / 2;
    let flush = copy(gpu, [other.part(0, half), other.part(half, half)])?;
    let mut times = [0.0; N];
    for (time, program) in times.iter_mut().zip(programs) {
        *time = time_behind(gpu, flush, program)?;
    }
    Ok(times)
}

fn time_behind(gpu: &mut Machine, first: Prepared, program: Prepared) -> Result<f64> {
    median(|| {
        gpu.run(first)?;
        gpu.time(program)
    })
}

fn copy(gpu: &mut Machine, [from, to]: [View<f32>; 2]) -> Result<Prepared> {
    let mut program = Program::new(KERNELS);
    // Four vectors of four per thread.
    let blocks = from.len.div_ceil(16 * THREADS);
    kernels::peak_copy(&mut program, blocks, from, to, from.len as i64);
    gpu.prepare(program)
}

/// Copies, and multiply-adds alone; a few of them where shapes are small.
pub(super) fn peaks(device: Device, shapes: Shapes) -> Result<Vec<Measured>> {
    let small = shapes == Shapes::Small;
    let timed = |gpu: &mut Machine, program| match device {
        Device::Emulator => Ok(None),
        _ => time_behind(gpu, program, program).map(Some),
    };
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
    let mut gpu = Machine::open(device)?;
    let n = if small { 3001 } else { FLUSH };
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let from = gpu.alloc_with("numbers", &x)?;
    let to = gpu.alloc("a copy", n)?;
    let program = copy(&mut gpu, [from, to])?;
    gpu.run(program)?;
    let bytes = 2 * n * size_of::<f32>();
    let mut peaks = vec![Measured {
        bytes,
        error: distance(&gpu.download(to)?, &x),
        seconds: timed(&mut gpu, program)?,
        ..measured(COPY, format!("{n} numbers"))
    }];
    // More blocks than any GPU runs at a time, so that the last of them weigh little.
    let blocks = if small { 1 } else { 1 << 15 };
    for precision in [Precision::Fp32, Precision::Tf32] {
        let mut gpu = Machine::open(device)?;
        let n = blocks * THREADS;
        gpu.alloc_with("sums", &vec![f32::NAN; n])?;
        let out = Slot { start: 0, len: n };
        let mut program = Program::new(KERNELS);
        // Flops of a thread in a round, and its sum after all rounds.
        let (rounds, flops, sum) = match precision {
            Precision::Fp32 => {
                let rounds = if small { 3 } else { 256 };
                kernels::peak_fp32(&mut program, blocks, out, 0.5, 1.0, rounds);
                let left = 0.5f64.powi(rounds);
                (rounds, 2 * 16, 120.0 * left + 32.0 * (1.0 - left))
            }
            Precision::Tf32 => {
                let rounds = if small { 3 } else { 64 };
                kernels::peak_tf32(&mut program, blocks, out, rounds);
                let product = 2 * 16 * 8 * 8 / 32;
                (rounds, 8 * product, f64::from(32 * rounds))
            }
        };
        let program = gpu.prepare(program)?;
        gpu.run(program)?;
        let sums: Vec<f32> = gpu.download(out)?;
        let about = format!("{blocks} blocks, {rounds} rounds");
        peaks.push(Measured {
            bytes: n * size_of::<f32>(),
            flops: n * flops * rounds as usize,
            precision: Some(precision),
            error: distance(&sums, &vec![sum as f32; n]),
            seconds: timed(&mut gpu, program)?,
            ..measured(peak_name(precision), about)
        });
    }
    Ok(peaks)
}

/// These programs are of kernels, whichever machine runs them.
const KERNELS: Target = Target {
    device: Device::Cuda(0),
    precision: None,
};

/// Of a block of the kernels in `kernels/peak.cu`.
const THREADS: usize = 256;

#[cfg(all(test, emulator))]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_time() {
        let mut gpu = Machine::open(Device::Emulator).unwrap();
        let x = gpu.alloc_with("x", &[1f32, 2.0]).unwrap();
        let [y, z] = [(); 2].map(|()| gpu.alloc_with("y", &[0f32; 2]).unwrap());
        let programs = [y, z].map(|y| copy(&mut gpu, [x, y]).unwrap());
        let times = times_behind(&mut gpu, 1000, programs).unwrap();
        assert!(times.iter().all(|t| *t > 0.0), "{times:?}");
        assert_eq!(gpu.download(z).unwrap(), [1.0, 2.0]);
    }
}
