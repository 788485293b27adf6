// Dropout's mask: m / (1 - p), m being 0 or 1. It is drawn again wherever it is needed: block i / 4 of Philox, keyed by the run's
// seed, counted by stream and step, serves elements 4 (i / 4) and on.
#pragma once
#include "packs.cuh"

struct DropoutMask {
  int drops;           // 0: nothing is dropped
  unsigned threshold;  // a draw below it drops
  float scale;         // of what is kept
  unsigned stream;     // tells the dropouts of a network apart
};

// Of elements 4 `block` and on.
DEVICE Pack<4> mask_block(const DropoutMask& mask, const Step* now, long long block) {
  const uint4 draws =
      philox(now->seed, (unsigned long long)mask.stream << 32 | (unsigned long long)block, now->batch);
  const unsigned draw[4] = {draws.x, draws.y, draws.z, draws.w};
  Pack<4> m;
#pragma unroll
  for (int k = 0; k < 4; k++) m.at[k] = draw[k] < mask.threshold ? 0.0f : mask.scale;
  return m;
}

// Of the pack that begins with this element; four of them are a block.
DEVICE Pack<4> mask_at(const DropoutMask& mask, const Step* now, long long at, Width<4>) {
  return mask_block(mask, now, at / 4);
}
DEVICE Pack<1> mask_at(const DropoutMask& mask, const Step* now, long long at, Width<1>) {
  const Pack<4> m = mask_block(mask, now, at / 4);
  return {{at % 4 == 0 ? m.at[0] : at % 4 == 1 ? m.at[1] : at % 4 == 2 ? m.at[2] : m.at[3]}};
}
