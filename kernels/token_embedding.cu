// Token embedding: y[t] = w[i[t]]; dw[v] = sum of dy[t] over the t with i[t] = v.
//   w, dw (vocabulary, dim); i (n), indices held as floats; y, dy (n, dim); partial (gridDim.y, vocabulary, dim): the sums
//   over parts of the tokens, or dw itself if there is one part. The last block of a code to arrive adds them up
// The gradient is gathered, which needs no atomics and has a fixed order. A block for each code and part looks through the
// part's indices, which lie in the L2 cache, lists those of its code, and adds up their rows: so dy is read once, by all
// processors. Texts use few codes, some of them often (a sixth of a text is spaces): without parts the block of
// the space would read megabytes alone while most others had finished. With many codes there are enough blocks, and one part.
#include "channels.cuh"

template <int V>
DEVICE void forward(const float* __restrict__ w, const float* __restrict__ tokens, float* __restrict__ y, long long n,
                    int dim) {
  const int packs = dim / V;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const long long token = i / packs;
    const int column = (int)(i - token * packs) * V;
    store(y + i * V, load<V>(w + (long long)tokens[token] * dim + column));
  }
}

// n packs of y.
KERNEL(token_embedding_fwd, 256, const float* __restrict__ w, const float* __restrict__ tokens,
       float* __restrict__ y, int packed, long long n, int dim) {
  if (packed)
    forward<4>(w, tokens, y, n, dim);
  else
    forward<1>(w, tokens, y, n, dim);
}

constexpr int WARPS = 4, LISTED = 256;  // tokens that a warp looks at before their rows are added

template <int V>
DEVICE void gather(const float* __restrict__ tokens, const float* __restrict__ dy, float* __restrict__ partial, int n,
                   int dim, int part) {
  SHARED(int, found, [WARPS][LISTED]);
  SHARED(int, counts, [WARPS]);
  const int code = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int from = blockIdx.y * part, to = min(n, from + part);
  for (int columns = 0; columns < dim; columns += WARPS * 32 * V) {
    const int column = columns + threadIdx.x * V;
    Pack<V> sum = {};
    for (int tile = from; tile < to; tile += WARPS * LISTED) {
      const int first = tile + warp * LISTED;
      int count = 0;
      for (int i = first; i < min(to, first + LISTED); i += 32) {
        const bool hit = i + lane < to && (int)tokens[i + lane] == code;
        const unsigned hits = __ballot_sync(0xffffffffu, hit);
        if (hit) found[warp][count + __popc(hits & ((1u << lane) - 1))] = i + lane;
        count += __popc(hits);
      }
      if (lane == 0) counts[warp] = count;
      __syncthreads();
      if (column < dim)
        for (int w = 0; w < WARPS; w++) {
#pragma unroll 8
          for (int k = 0; k < counts[w]; k++) {
            const Pack<V> d = load<V>(dy + (long long)found[w][k] * dim + column);
#pragma unroll
            for (int j = 0; j < V; j++) sum.at[j] += d.at[j];
          }
        }
      __syncthreads();  // the lists have been read
    }
    if (column < dim) store(partial + ((long long)blockIdx.y * gridDim.x + code) * dim + column, sum);
  }
}

// dw of a code from its parts, if this block is the last of them.
DEVICE void add_parts(const float* partial, float* dw, unsigned* counters, int dim) {
  const int code = blockIdx.x, parts = gridDim.y;
  if (!last_to_arrive(counters + code, parts)) return;
  for (int column = threadIdx.x; column < dim; column += WARPS * 32) {
    float sum = 0.0f;
#pragma unroll 16
    for (int part = 0; part < parts; part++)
      sum += __ldcg(partial + ((long long)part * gridDim.x + code) * dim + column);
    dw[(long long)code * dim + column] = sum;
  }
}

// n tokens, `part` to a part.
KERNEL(token_embedding_bwd, 128, const float* __restrict__ tokens, const float* __restrict__ dy,
       float* __restrict__ partial, float* __restrict__ dw, unsigned* __restrict__ counters, int packed, int n,
       int dim, int part) {
  if (packed)
    gather<4>(tokens, dy, partial, n, dim, part);
  else
    gather<1>(tokens, dy, partial, n, dim, part);
  if (gridDim.y > 1) add_parts(partial, dw, counters, dim);
}
