//! A data set's halves where a run trains, and how its batches are gathered.

use std::sync::Arc;

use crate::data::augment::Placement;
use crate::data::{Split, Vocabulary};
use crate::device::gpu::kernels::{self, Step};
use crate::device::program::{floats_mut, one};
use crate::device::{Machine, Program, View};
use crate::error::Result;
use crate::graph::Plan;
use crate::random::torch::Generator;

/// One half of a data set, as a machine has it.
pub(super) struct Half {
    split: Arc<Split>,
    resident: Option<Resident>,
}

/// The samples and targets on a device.
#[derive(Clone, Copy)]
enum Resident {
    Floats {
        /// (samples, features)
        values: View<f32>,
        /// (samples, targets)
        targets: View<f32>,
    },
    Bytes {
        values: View<u8>,
        /// (channels, 256)
        table: View<f32>,
        channels: usize,
        targets: View<f32>,
    },
    /// Of which samples are windows.
    Tokens(View<u8>),
}

/// Where a batch is found: its step, and by it the samples' indices and, for augmented images, where each is flipped
/// and cropped.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    pub now: View<Step>,
    pub order: View<u32>,
    pub placements: View<Placement>,
}

impl Half {
    /// The CPU reads the samples where they are, from memory or a mapped file; other machines get a copy.
    pub fn new(machine: &mut Machine, split: &Arc<Split>) -> Result<Half> {
        let resident = match machine.is_host() {
            true => None,
            false => Some(Resident::new(machine, split)?),
        };
        Ok(Half {
            split: split.clone(),
            resident,
        })
    }

    pub fn len(&self) -> usize {
        self.split.len()
    }

    /// What the tokens stand for, if the samples are texts.
    pub fn vocabulary(&self) -> Option<&Vocabulary> {
        self.split.vocabulary()
    }

    pub fn is_augmented(&self) -> bool {
        self.split.augmentation().is_some()
    }

    /// See [`Split::draw_placements`].
    pub fn draw_placements(&self, n: usize, generator: &mut Generator) -> Vec<Placement> {
        self.split.draw_placements(n, generator)
    }

    /// Adds the gathering of a plan's inputs, `samples` from the place that the step names.
    pub fn gather(&self, plan: &Plan, samples: usize, batch: Batch, program: &mut Program) {
        match &self.resident {
            None => self.gather_on_host(plan, samples, batch, program),
            Some(resident) => resident.gather(plan, samples, batch, self.is_augmented(), program),
        }
    }

    fn gather_on_host(&self, plan: &Plan, samples: usize, batch: Batch, program: &mut Program) {
        let Batch {
            now,
            order,
            placements,
        } = batch;
        let split = self.split.clone();
        let reads = [now.into(), order.into(), placements.into()];
        let writes = [plan.inputs[0], plan.inputs[1]].map(Into::into);
        program.host(
            "gather",
            reads,
            writes,
            move |[now, order, placements], [x, y]| {
                let first = one::<Step>(now).first as usize;
                let batch = first..first + samples;
                let order: &[u32] = bytemuck::cast_slice(order);
                let placements: &[Placement] = match split.augmentation() {
                    Some(_) => &bytemuck::cast_slice(placements)[batch.clone()],
                    None => &[],
                };
                split.gather(&order[batch], placements, floats_mut(x), floats_mut(y));
            },
        );
    }
}

impl Resident {
    fn new(machine: &mut Machine, split: &Split) -> Result<Resident> {
        const SAMPLES: &str = "the samples";
        const TARGETS: &str = "the targets";
        if let Some(tokens) = split.tokens() {
            return Ok(Resident::Tokens(machine.alloc_with(SAMPLES, tokens)?));
        }
        let mut y = split.targets();
        if let Some((bytes, tables)) = split.bytes() {
            return Ok(Resident::Bytes {
                values: machine.alloc_with(SAMPLES, bytes)?,
                table: machine.alloc_with("the table of pixel values", tables.as_flattened())?,
                channels: tables.len(),
                targets: machine.alloc_with(TARGETS, &y)?,
            });
        }
        let all: Vec<u32> = (0..split.len() as u32).collect();
        let mut x = vec![0.0; split.len() * split.sample().len()];
        split.gather(&all, &[], &mut x, &mut y);
        Ok(Resident::Floats {
            values: machine.alloc_with(SAMPLES, &x)?,
            targets: machine.alloc_with(TARGETS, &y)?,
        })
    }

    fn gather(
        &self,
        plan: &Plan,
        samples: usize,
        batch: Batch,
        augmented: bool,
        program: &mut Program,
    ) {
        let Batch {
            now,
            order,
            placements,
        } = batch;
        let [x, y] = [plan.inputs[0], plan.inputs[1]];
        let [width, count] = [x, y].map(|slot| (slot.len / samples) as i32);
        let grid = (samples, (x.len / samples).div_ceil(1024));
        match (*self, augmented) {
            (Resident::Floats { values, targets }, _) => {
                kernels::gather_floats(
                    program, grid, values, targets, order, now, x, y, width, count,
                );
            }
            (Resident::Tokens(tokens), _) => {
                kernels::gather_tokens(program, grid, tokens, order, now, x, y, width);
            }
            (
                Resident::Bytes {
                    values,
                    table,
                    channels,
                    targets,
                },
                false,
            ) => {
                let arguments = kernels::GatherBytes {
                    data: values,
                    table,
                    channels: channels as i32,
                    targets,
                    order,
                    now,
                    x: x.into(),
                    y: y.into(),
                    width,
                    count,
                };
                kernels::gather_bytes(program, grid, arguments);
            }
            (
                Resident::Bytes {
                    values,
                    table,
                    channels,
                    targets,
                },
                true,
            ) => {
                let arguments = kernels::GatherImages {
                    data: values,
                    table,
                    places: placements.cast(),
                    targets,
                    order,
                    now,
                    x: x.into(),
                    y: y.into(),
                    side: (x.len / samples / channels).isqrt() as i32,
                    count,
                };
                kernels::gather_images(program, grid, arguments);
            }
        }
    }
}
