//! A data set's halves where a run trains, and how its batches are gathered.

use std::sync::Arc;

use crate::data::augment::Placement;
use crate::data::{Split, Vocabulary};
use crate::device::gpu::kernels::{self, Step};
use crate::device::program::{floats_mut, one_mut};
use crate::device::{Machine, Program, Slot, View};
use crate::error::Result;
use crate::graph::Plan;

/// One half of a data set, as a machine has it.
pub(super) struct Half {
    pub split: Arc<Split>,
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

/// Where a batch is found: by the number of its step the samples' indices and, for augmented images, where each is flipped
/// and cropped.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    /// The table of steps, and how many of its entries were taken.
    pub steps: View<Step>,
    pub taken: View<i32>,
    /// The entry that was taken last, instead of the next one.
    pub again: bool,
    /// From the first sample of a batch to that of the next one.
    pub size: usize,
    /// Becomes this entry.
    pub now: View<Step>,
    /// What backward begins with.
    pub df: f32,
    pub order: View<u32>,
    pub placements: View<Placement>,
}

impl Batch {
    /// Where backward begins. A plan without one has a loss to write over.
    fn seed(plan: &Plan) -> Slot {
        match plan.seed.len {
            0 => plan.outputs[0],
            _ => plan.seed,
        }
    }
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

    /// Adds the beginning of a step: its entry is taken, and the plan's inputs are gathered, `samples` from the place that
    /// it names.
    pub fn gather(&self, plan: &Plan, samples: usize, batch: Batch, program: &mut Program) {
        match &self.resident {
            None => self.gather_on_host(plan, samples, batch, program),
            Some(resident) => resident.gather(plan, samples, batch, self.is_augmented(), program),
        }
    }

    fn gather_on_host(&self, plan: &Plan, samples: usize, batch: Batch, program: &mut Program) {
        let Batch {
            steps,
            taken,
            again,
            size,
            now,
            df,
            order,
            placements,
        } = batch;
        let split = self.split.clone();
        let reads = [steps.into(), order.into(), placements.into()];
        let [x, y] = [plan.inputs[0], plan.inputs[1]].map(Into::into);
        let writes = [taken.into(), now.into(), Batch::seed(plan).into(), x, y];
        program.host(
            "gather",
            reads,
            writes,
            move |[steps, order, placements], [taken, now, seed, x, y]| {
                let taken: &mut i32 = one_mut(taken);
                let entry = (*taken - i32::from(again)) as usize;
                *taken += i32::from(!again);
                *one_mut(now) = bytemuck::cast_slice::<u8, Step>(steps)[entry];
                floats_mut(seed)[0] = df;
                let batch = entry * size..entry * size + samples;
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
            steps,
            taken,
            again,
            size,
            now,
            df,
            order,
            placements,
        } = batch;
        let [x, y] = [plan.inputs[0], plan.inputs[1]];
        let [width, count] = [x, y].map(|slot| (slot.len / samples) as i32);
        let (x, y, seed) = (x.into(), y.into(), Batch::seed(plan).into());
        let (again, batch_size, counter) = (again.into(), size as i32, program.counters(1));
        let grid = (samples, (width as usize).div_ceil(1024));
        // Beside what all of these kernels take, each has arguments of its own.
        macro_rules! gather {
            ($Arguments:ident: $($own:tt)*) => {
                kernels::$Arguments {
                    order, steps, taken, again, batch_size, now, seed, df, counter, x, y, $($own)*
                }
            };
        }
        match *self {
            Resident::Floats {
                values: data,
                targets,
            } => {
                let arguments = gather!(GatherFloats: data, targets, width, count);
                kernels::gather_floats(program, grid, arguments);
            }
            Resident::Tokens(tokens) => {
                let arguments = gather!(GatherTokens: tokens, length: width);
                kernels::gather_tokens(program, grid, arguments);
            }
            Resident::Bytes {
                values: data,
                table,
                channels,
                targets,
            } if augmented => {
                let places = placements.cast();
                let side = (width as usize / channels).isqrt() as i32;
                let arguments = gather!(GatherImages: data, table, places, targets, side, count);
                kernels::gather_images(program, grid, arguments);
            }
            Resident::Bytes {
                values: data,
                table,
                channels,
                targets,
            } => {
                let channels = channels as i32;
                let arguments = gather!(GatherBytes: data, table, channels, targets, width, count);
                program.gather(grid, arguments);
            }
        }
    }
}
