//! Fusion: an op takes over the op behind it, where both say that they can ([`Op::absorb`], [`Op::tail`]) and
//! nothing else reads what lies between them.

use super::freeze::{Moved, needed};
use super::op::{MAX_INPUTS, Tail};
use super::tape::{Node, Source};

/// Replaces ops by fused ones. The fused op stands where the tail was, so that all its operands come before
/// it; the op before is left without a use.
pub(super) fn fuse(nodes: &mut [Node], targets: &[usize]) {
    let needed = needed(nodes, targets);
    let mut uses = vec![0; nodes.len()];
    targets.iter().for_each(|&id| uses[id] += 1);
    for (node, _) in nodes.iter().zip(&needed).filter(|(_, needed)| **needed) {
        if let Source::Op { inputs, .. } = &node.source {
            inputs.iter().for_each(|&i| uses[i] += 1);
        }
    }
    for id in (0..nodes.len()).filter(|&id| needed[id]) {
        let (before, rest) = nodes.split_at_mut(id);
        merge(before, &mut rest[0].source, &uses);
    }
}

/// Merges the op `last` with the one before it.
fn merge(before: &mut [Node], last: &mut Source, uses: &[usize]) {
    let Source::Op { op, inputs, state } = last else {
        return;
    };
    let Some(tail) = op.tail() else { return };
    // Either term of a sum can be the one to which the other is added.
    let candidates = if tail == Tail::Add { 2 } else { 1 };
    for place in 0..candidates {
        let Source::Op {
            op: first,
            inputs: operands,
            state: first_state,
        } = &mut before[inputs[place]].source
        else {
            continue;
        };
        let fits = operands.len() + inputs.len() - 1 <= MAX_INPUTS
            && (first_state.is_none() || state.is_none());
        if uses[inputs[place]] == 1 && fits && first.absorb(tail) {
            *op = std::mem::replace(first, Box::new(Moved));
            inputs.remove(place);
            inputs.splice(0..0, operands.iter().copied());
            *state = state.or(*first_state);
            return;
        }
    }
}
