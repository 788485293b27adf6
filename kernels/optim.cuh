// What the optimizers' kernels share. A method's coefficients, one structure per step of an epoch, come from the host in
// double and become single where they meet a vector.
#pragma once
#include "packs.cuh"

// A tensor in the flat vectors.
struct TensorRange {
  long long start;
  long long n;
  long long rows;  // of the matrix that it is: its first dimension
};

// What the methods of MoMo's family keep beside vectors.
struct ModelScalars {
  float loss_average, inner_average;  // running averages of f and <w, g>
  double lower_bound;                 // in force: fixed except in the star variants
  double h;                           // F + D - G, from which a star variant draws its lower bound
  double tau;                         // the step size
};

// beta old + (1 - beta) x, and with x^2, rounded as PyTorch rounds them.
DEVICE float average(double beta, float old, float x) { return fmaf((float)(1.0 - beta), x, (float)beta * old); }
DEVICE float average_square(double beta, float old, float x) {
  return fmaf((float)(1.0 - beta) * x, x, (float)beta * old);
}

// (1 - weight) a + weight b, rounded as torch.lerp rounds it.
DEVICE float lerp(float a, float b, float weight) {
  return weight < 0.5f ? fmaf(weight, b - a, a) : fmaf(weight - 1.0f, b - a, b);
}

// g + wd w, untouched without decay: 0 times an infinite weight would make a NaN.
DEVICE float decayed(float g, float wd, float w) { return wd == 0.0f ? g : fmaf(wd, w, g); }

// -1, 0 or 1; 0 for NaN, as PyTorch has it.
DEVICE float sign(float x) { return (float)((x > 0.0f) - (x < 0.0f)); }

// Python's max(x, bound), which keeps a NaN, and min(limit, x), which does not.
DEVICE double at_least(double x, double bound) { return bound > x ? bound : x; }
DEVICE double at_most(double x, double limit) { return x < limit ? x : limit; }

// Stores a block's sums behind those of the blocks before it.
template <int N>
DEVICE void store_sums(double (&sums)[N], double* partial) {
  block_sums<256, N>(sums);
  if (threadIdx.x == 0)
    for (int i = 0; i < N; i++) partial[blockIdx.x * N + i] = sums[i];
}

// The sums over all blocks, for every thread of the one block that calls it.
template <int N>
DEVICE void load_sums(double (&sums)[N], const double* partial, int blocks) {
  for (int i = 0; i < N; i++) sums[i] = 0.0;
  for (int b = threadIdx.x; b < blocks; b += 256)
    for (int i = 0; i < N; i++) sums[i] += partial[b * N + i];
  block_sums<256, N>(sums);
}

// How a step of MoMo's family goes on behind its sums, for one group of parameters.
struct ModelStep {
  int blocks;  // of the sums over all groups
  int star;    // does it estimate the lower bound?
  int first;   // is it the first group, before which the averages move on?
};

// The averages F and G, the lower bound and the step size of the model; formula and names in src/optim/momo.rs.
// Returns the adaptive step size, before the learning rate limits it.
DEVICE double model_step(ModelScalars& s, const double (&sums)[3], float loss, double beta, double rho, double c,
                         double lr, double initial_bound, ModelStep how) {
  const float slope = (float)sums[0], inner = (float)sums[1], norm = (float)sums[2];
  if (how.first) {
    s.loss_average = average(beta, s.loss_average, loss);
    s.inner_average = average(beta, s.inner_average, slope);
  }
  const float F = s.loss_average, G = s.inner_average, cf = (float)c;
  if (how.star) {
    const double cap = cf * (F - 0.0f) + inner - cf * G;
    if (cap < c * rho * s.lower_bound) s.lower_bound = at_least(cap / (2.0 * c * rho), initial_bound);
  }
  const float model = cf * (F - (float)(rho * s.lower_bound)) + inner - cf * G;
  const double step_size = (float)at_least(model, 0.0) / norm;
  s.tau = at_most(step_size, lr / rho);
  if (how.star) {
    const float h = F + inner - G;
    s.lower_bound = at_least((h - (float)(0.5 * s.tau) * norm) / (float)rho, initial_bound);
    s.h = h;
  }
  return step_size;
}
