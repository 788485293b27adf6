//! Batch norm in training, as kernels share it with the ops around it: forward's statistics are made by the op before, and
//! readers that can do so finish x themselves; on the way back the reader that adds to dy last makes the sums of its
//! gradient, and the op before finishes dx when it reads it. Whatever of this does not fit, batch norm's own kernels do.

use super::freeze::{Builder, Operand};
use super::op::{Finish, Norm, NormGradient, Statistics};
use super::plan::{Action, Task};
use super::tape::{Node, Source};
use crate::device::Device;

impl Builder {
    fn on_kernels(&self) -> bool {
        self.device != Device::Cpu
    }

    /// Has the op before a batch norm make its statistics, if it can.
    pub(super) fn statistics(&mut self, task: &mut Task<Operand>, inputs: &[usize]) {
        let norm = self.ops[task.op].batch_norm();
        let (true, Some(_), Some(before)) = (self.on_kernels(), norm, self.op_of[inputs[0]]) else {
            return;
        };
        let counts = self.ops[before].cuda_counts();
        if counts == 0 || self.tasks[before].statistics.is_some() {
            return;
        }
        let [_, gamma, beta, ..] = task.x;
        self.tasks[before].statistics = Some(Statistics {
            gamma,
            beta,
            saved: task.saved,
            averages: task.state,
            partial: self.buffer(counts),
        });
        self.live(before);
        task.has_statistics = true;
    }

    /// Is a batch norm's value x, which all of its readers finish? Then nothing is left to do.
    pub(super) fn left_to_readers(
        &mut self,
        id: usize,
        task: &Task<Operand>,
        inputs: &[usize],
        behind: &[Node],
    ) -> bool {
        let Some(norm) = self.ops[task.op].batch_norm() else {
            return false;
        };
        let finishes = |&reader: &usize| match behind.get(reader.wrapping_sub(id + 1)) {
            Some(Node {
                source: Source::Op { op, inputs, .. },
                ..
            }) => op.cuda_finishes()[0] && !inputs[1..].contains(&id),
            _ => false,
        };
        let left = task.has_statistics && !norm.residual && self.consumers[id].iter().all(finishes);
        if left {
            self.values[id] = self.values[inputs[0]];
            self.finish[id] = Some(Finish {
                lines: task.saved,
                other: Operand::None,
                relu: norm.relu,
            });
        }
        left
    }

    /// What is to be made of a batch norm's gradient, by it or by another op; and contributions to gradients that are there.
    fn norm_gradient(
        &mut self,
        (id, op): (usize, usize),
        norm: Norm,
        counts: usize,
        nodes: &[Node],
    ) -> (NormGradient<Operand>, Vec<(Operand, Operand)>) {
        let inputs = inputs_of(&nodes[id]);
        let mut further = Vec::new();
        let [dgamma, dbeta] = [inputs[1], inputs[2]].map(|i| {
            let first = self.grads[i].is_none();
            let term = self.contribution(i, nodes);
            match first {
                true => self.grads[i] = term,
                false => further.push((self.grads[i], term)),
            }
            term
        });
        let channels: usize = nodes[inputs[1]].shape.iter().product();
        let gradient = NormGradient {
            x: self.values[inputs[0]],
            y: match norm.residual && norm.relu {
                true => self.values[id],
                false => Operand::None,
            },
            saved: self.tasks[op].saved,
            dgamma,
            dbeta,
            lines: self.buffer(3 * channels),
            partial: self.buffer(counts),
            relu: norm.relu,
        };
        (gradient, further)
    }

    /// The batch norm whose dy this op's backward completes, if it can make the sums of its gradient and mask it in place.
    pub(super) fn norm_before(
        &mut self,
        id: usize,
        inputs: &[usize],
        nodes: &[Node],
        task: &Task<Operand>,
    ) -> Option<NormGradient<Operand>> {
        let before = inputs[0];
        let op = self.op_of[before].filter(|_| self.on_kernels())?;
        let norm = self.ops[op].batch_norm()?;
        let counts = self.ops[task.op].cuda_bwd_counts();
        let parameters = &inputs_of(&nodes[before])[1..3];
        let completes = counts > 0
            && task.dx[0] == self.grads[before]
            && self.pending(before, id).next().is_none()
            && self.is_alone(before, id)
            && parameters.iter().all(|&i| self.grads[i].is_none());
        if !completes {
            return None;
        }
        let (gradient, _) = self.norm_gradient((before, op), norm, counts, nodes);
        self.norm_grads[before] = Some(NormGradient {
            partial: Operand::None,
            ..gradient
        });
        Some(gradient)
    }

    /// Does nobody before node `id` share this node's gradient, nor the caller?
    fn is_alone(&self, node: usize, id: usize) -> bool {
        let gradient = self.grads[node];
        let kept = match gradient {
            Operand::Buffer(buffer) => self.buffers[buffer].dies == usize::MAX,
            _ => true,
        };
        !kept && (0..id).all(|other| other == node || self.grads[other] != gradient)
    }

    /// Backward of a batch norm, if node `id` is one for kernels.
    pub(super) fn norm_backward(&mut self, id: usize, inputs: &[usize], nodes: &[Node]) -> bool {
        let Some(op) = self.op_of[id].filter(|_| self.on_kernels()) else {
            return false;
        };
        let body = self.ops[op].clone();
        let Some(norm) = body.batch_norm() else {
            return false;
        };
        let made = self.norm_grads[id];
        let (gradient, mut further) = match made {
            Some(gradient) => (gradient, Vec::new()),
            None => self.norm_gradient((id, op), norm, body.cuda_bwd_counts(), nodes),
        };
        let mut task = Task::new(Action::Backward, op);
        task.norm = Some(gradient);
        task.dy = self.grads[id];
        task.dz = match norm.relu && made.is_none() && !self.is_alone(id, id) {
            true => self.buffer(nodes[id].shape.iter().product()),
            false => task.dy,
        };
        self.grads[id] = task.dz;
        let x = inputs[0];
        let mut heir = None;
        if let Some(&residual) = inputs.get(3).filter(|_| norm.residual)
            && self.wants_grad[residual]
        {
            if !self.grads[residual].is_none() {
                further.push((self.grads[residual], task.dz));
            } else if residual != x
                && self
                    .heirs(id, [residual].into_iter(), nodes)
                    .contains(&residual)
            {
                self.grads[residual] = task.dz;
                heir = Some(residual);
            } else {
                task.dx[3] = self.contribution(residual, nodes);
                self.grads[residual] = task.dx[3];
            }
        }
        if self.wants_grad[x] {
            let finishes = self.op_of[x].is_some_and(|op| self.ops[op].cuda_finishes()[1]);
            // Who adds to the residual's gradient must find dz read.
            let read_first = heir.is_none_or(|heir| self.pending(heir, id).all(|c| c < x));
            if self.grads[x].is_none()
                && finishes
                && read_first
                && self.pending(x, id).next().is_none()
            {
                self.grads[x] = task.dz;
                self.finish_grads[x] = Some(Finish {
                    lines: gradient.lines,
                    other: gradient.x,
                    relu: false,
                });
            } else {
                let first = self.grads[x].is_none();
                task.dx[0] = self.contribution(x, nodes);
                match first {
                    true => self.grads[x] = task.dx[0],
                    false => further.push((self.grads[x], task.dx[0])),
                }
            }
        }
        let writes = task.dx.iter().any(|dx| !dx.is_none());
        if writes || !gradient.partial.is_none() {
            self.push(task);
        }
        self.accumulate(op, further);
        true
    }
}

/// Of a node that is an op.
fn inputs_of(node: &Node) -> &[usize] {
    match &node.source {
        Source::Op { inputs, .. } => inputs,
        _ => &[],
    }
}
