//! What the machine itself can do, and its clock.

use std::time::Instant;

use super::{Measured, Shapes};
use crate::device::gpu::{Precision, kernels};
use crate::device::{Device, Machine, Prepared, Program, Slot, Target, View};
use crate::error::Result;
use crate::ops::distance;

/// Runs of which the median is taken on the CPU, after a few that warm up.
const RUNS: usize = 31;
const WARM_UP: usize = 5;

/// Runs of which the median is taken on a GPU. Each is what is timed, this many times in one graph: fewer where that takes
/// longer than `LONG` seconds.
const GRAPHS: usize = 7;
const REPEATS: usize = 20;
const LONG: f64 = 2e-3;

/// Seconds of work before anything is timed: the clocks of a GPU that has nothing to do are a fraction of those under load.
const WARM_UP_GPU: f64 = 0.5;

/// Floats that are written between repeats, so that the L2 cache holds nothing of the last one.
pub(super) const FLUSH: usize = 64 << 20;

pub(super) const COPY: &str = "copy";
pub(super) const L2: &str = "l2";
pub(super) const LAUNCH: &str = "launch";

/// Copies that are timed: out of the caches, within L2 (8, 16, 32 and 48 MB are read and written), and one that is nothing
/// but a launch.
const COPIES: [(&str, usize); 6] = [
    (COPY, FLUSH),
    (L2, 1 << 20),
    (L2, 2 << 20),
    (L2, 4 << 20),
    (L2, 6 << 20),
    (LAUNCH, 4),
];
const SMALL_COPIES: [(&str, usize); 3] = [(COPY, 3001), (L2, 1001), (LAUNCH, 4)];

/// Seconds of a program.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seconds {
    /// On a GPU the L2 cache holds other data.
    pub cold: Option<f64>,
    /// It holds what the run before left.
    pub hot: Option<f64>,
}

pub(super) fn peak_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Fp32 => "peak_fp32",
        Precision::Tf32 => "peak_tf32",
    }
}

/// The median of what a clock says this many times.
fn median(runs: usize, clock: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut times = std::iter::repeat_with(clock)
        .take(runs)
        .collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[runs / 2])
}

/// Median times of programs: none on the emulator, where they say nothing.
pub(super) fn seconds<const N: usize>(
    machine: &mut Machine,
    device: Device,
    shapes: Shapes,
    programs: [Prepared; N],
) -> Result<[Seconds; N]> {
    match device {
        Device::Emulator | Device::Plan => Ok([Seconds::default(); N]),
        Device::Cuda(_) => {
            let floats = match shapes {
                Shapes::Experiments => FLUSH,
                Shapes::Small => 1000,
            };
            times(machine, floats, programs)
        }
        Device::Cpu => {
            let mut seconds = [Seconds::default(); N];
            for (seconds, program) in seconds.iter_mut().zip(programs) {
                machine.time(&[program], WARM_UP)?;
                seconds.cold = Some(median(RUNS, || machine.time(&[program], 1))?);
            }
            Ok(seconds)
        }
    }
}

/// Median times of programs on a GPU: of each alone, again and again, and of each behind a copy of this many other floats,
/// which empties the cache and whose own time is taken off.
fn times<const N: usize>(
    gpu: &mut Machine,
    floats: usize,
    programs: [Prepared; N],
) -> Result<[Seconds; N]> {
    let other: View<f32> = gpu.alloc("other data", floats)?;
    let half = floats / 2;
    let flush = copy(gpu, [other.part(0, half), other.part(half, half)])?;
    let mut times = [Seconds::default(); N];
    for (time, program) in times.iter_mut().zip(programs) {
        let (hot, repeats) = hot(gpu, program)?;
        time.hot = Some(hot);
        let cold = median(GRAPHS, || {
            let both = gpu.time(&[flush, program], repeats)?;
            Ok(both - gpu.time(&[flush], repeats)?)
        })?;
        time.cold = Some(cold / repeats as f64);
    }
    Ok(times)
}

/// The median time of a program behind itself, and how often it was in a graph for that.
fn hot(gpu: &mut Machine, program: Prepared) -> Result<(f64, usize)> {
    let once = gpu.time(&[program], 1)?;
    let repeats = ((LONG / once).ceil() as usize).clamp(1, REPEATS);
    let time = median(GRAPHS, || gpu.time(&[program], repeats))?;
    Ok((time / repeats as f64, repeats))
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
        _ => hot(gpu, program).map(|(seconds, _)| Some(seconds)),
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
        hot_seconds: None,
        error: 0.0,
    };
    let mut gpu = Machine::open(device)?;
    let copies: &[(&str, usize)] = if small { &SMALL_COPIES } else { &COPIES };
    let most = copies.iter().map(|(_, n)| *n).max().expect("a copy");
    let x: Vec<f32> = (0..most).map(|i| i as f32).collect();
    let from = gpu.alloc_with("numbers", &x)?;
    if let Device::Cuda(_) = device {
        let to: View<f32> = gpu.alloc("a copy", most)?;
        let program = copy(&mut gpu, [from, to])?;
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < WARM_UP_GPU {
            gpu.time(&[program], REPEATS)?;
        }
    }
    let mut peaks = Vec::new();
    for &(name, n) in copies {
        let to: View<f32> = gpu.alloc("a copy", n)?;
        let program = copy(&mut gpu, [from.part(0, n), to])?;
        gpu.run(program)?;
        peaks.push(Measured {
            bytes: 2 * n * size_of::<f32>(),
            error: distance(&gpu.download(to)?, &x[..n]),
            seconds: timed(&mut gpu, program)?,
            ..measured(name, format!("{n} numbers"))
        });
    }
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
        let times = times(&mut gpu, 1000, programs).unwrap();
        assert!(times.iter().all(|t| t.hot > Some(0.0)), "{times:?}");
        assert!(times.iter().all(|t| t.cold.is_some()), "{times:?}");
        assert_eq!(gpu.download(z).unwrap(), [1.0, 2.0]);
    }
}
