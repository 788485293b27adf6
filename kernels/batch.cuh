// Losses and scores of several batches, of which block b computes the b-th.
#pragma once
#include "common.cuh"

// The class of a row that neither losses nor scores count.
constexpr int IGNORED = -1;

struct Batch {
  long long first, n;  // of this block's elements
};

// Where batches have `batch` of n elements, the last one what is left.
DEVICE Batch batch_of(long long n, long long batch) {
  const long long first = blockIdx.x * batch;
  return {first, min(batch, n - first)};
}
