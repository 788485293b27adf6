// A whole network in one launch: linear layers, some with ReLU, the mean cross entropy of what the last one gives, and the
// gradients of all. For few rows and narrow layers, which take less time than launches do.
//   x (rows, inputs); of layer i: w, dw (outputs, its inputs), b, db (outputs), y (rows, outputs), dy, before its ReLU
//
// Blocks take tasks in their order, and a task waits for some that come before it. So whichever blocks run at a time, and in
// whatever order they begin, the first of the tasks under way waits for nobody:
//   a tile of a part of the first layer's x w^T: of some of the terms of its sums
//   some rows of everything else up to the gradient of that layer's y, always in single precision. The weights that it takes are
//   on their way before it waits, for those tiles that have its rows. It adds the parts up, in their order
//   a tile of a dw, or 32 columns of a db, when all rows are done and nobody reads w and b any more: where Adam's update is all
//   that the step does with them, it follows at once
//
// In training on bytes the launch begins the step, too, as `gather_bytes` in train.cu does: tiles read the samples' bytes, the
// first of each row leaves x, and the rows' tasks leave the targets.
#include "adam.cuh"
#include "cross_entropy.cuh"
#include "product.cuh"

constexpr int MOST_LAYERS = 4;

struct LayerSizes {
  int rows, inputs, count;  // of x, and of layers
  int outputs0, outputs1, outputs2, outputs3;
  int relu, biased;         // a bit for each layer: ReLU behind it? a bias?
  int trained;              // the same: are dw and db wanted?
  int group;                // rows of a task of rows, which divide a tile's
  int parts, part;          // of the first layer's sums, and slices of ForRows in each but the last
};

// Where w and b of the layers have what Adam keeps of them.
struct LayerPlaces {
  int w0, w1, w2, w3, b0, b1, b2, b3;
};

struct Layer {
  const float* x;
  float *w, *b, *y, *dy, *dw, *db;
  int inputs, outputs;
  int w_place, b_place;
};

struct LayerAt : Layer {
  bool relu;
  int pitch, weights, values;  // in shared memory: of a row of w, where w begins, and where a task's rows of y do
  int dw_tiles, db_tiles;

  METHOD float bias(int output) const { return b ? b[output] : 0.0f; }
  METHOD float activated(float z) const { return relu && z < 0.0f ? 0.0f : z; }  // a NaN stays

  // Where y is 0 because of ReLU, its gradient is.
  METHOD float behind_relu(float dy, float y) const { return relu && y <= 0.0f ? 0.0f : dy; }
};

DEVICE int whole_packs(int n) { return (n + 3) / 4 * 4; }

using ForRows = Tile16;     // of the first layer's x w^T
using ForWeights = Tile32;  // of dw

// x in a product: as it is stored, or as bytes of a data set, of which a table says what numbers they stand for.
struct Samples {
  const unsigned char* data;  // (samples, inputs); or x is stored, if there are no channels
  const unsigned* rows;       // in shared memory: the samples of the batch
  const float* numbers;       // there, too: (channels, 256)
  int channels;
  float* x;                   // where the numbers go, if anywhere

  // A thread has eight numbers of a slice.
  static constexpr int EACH = 8, ACROSS = ForRows::SLICE / EACH;
  static_assert(ForRows::TILE * ACROSS == ForRows::THREADS, "all of a slice");
  METHOD static int row() { return threadIdx.x / ACROSS; }
  METHOD static int column() { return threadIdx.x % ACROSS * EACH; }

  template <class S, bool BY_ROW>
  METHOD void bring(float* to, const Product& p, int i0, int k0, bool aligned) const {
    if (channels == 0) return copy_tile<S, BY_ROW>(to, p.a, nullptr, i0, p.m, k0, p.k, aligned);
    const int i = i0 + row(), k = k0 + column();
    const bool inside = i < p.m && k < p.k;
    const unsigned char* from = inside ? data + (long long)rows[i] * p.k + k : data;
    copy_async<EACH>(to + row() * S::ROW_PITCH + column(), from, inside ? EACH : 0);
  }

  // The bytes lie where the first of their numbers go.
  template <class S>
  METHOD void finish(float* to, const Product& p, int i0, int k0) const {
    if (channels == 0) return;
    const int i = i0 + row(), k = k0 + column();
    const bool inside = i < p.m && k < p.k;
    to += row() * S::ROW_PITCH + column();
    unsigned bytes[2];
    for (int h = 0; h < 2; h++) bytes[h] = __float_as_uint(to[h]);
    int channel = k % channels;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      Pack<4> pack;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        pack.at[j] = inside ? numbers[channel * 256 + (bytes[h] >> 8 * j & 255)] : 0.0f;
        if (++channel == channels) channel = 0;
      }
      store(to + 4 * h, pack);
      if (x && inside) store(x + (long long)i * p.k + k + 4 * h, pack);
    }
  }
};

// Of a batch of bytes: each thread finds the sample of a row.
constexpr int MOST_ROWS = 256, MOST_CHANNELS = 3;

// The counters: tasks that were taken, groups of rows and blocks that are done, and tiles of each row of tiles.
constexpr int TAKEN = 0, GROUPS_DONE = 1, BLOCKS_DONE = 2, TILES_DONE = 3;

DEVICE int tiles_of(int tile, int rows, int columns) { return (rows + tile - 1) / tile * ((columns + tile - 1) / tile); }

// The sum of n products in shared memory: of x with a row of a matrix, or a column.
template <bool BY_ROW>
DEVICE float dot(const float* x, const float* w, int n, int pitch) {
  const int packed = reinterpret_cast<uintptr_t>(x) % 16 == 0 ? n / 4 * 4 : 0;
  float sums[4] = {};
#pragma unroll 4
  for (int i = 0; i < packed; i += 4) {
    const Pack<4> xs = load<4>(x + i);
    Pack<4> ws;
    if (BY_ROW)
      ws = load<4>(w + i);
    else
      for (int k = 0; k < 4; k++) ws.at[k] = w[(i + k) * pitch];
    for (int k = 0; k < 4; k++) sums[k] = fmaf(xs.at[k], ws.at[k], sums[k]);
  }
  for (int i = packed; i < n; i++) sums[0] = fmaf(x[i], w[BY_ROW ? i : i * pitch], sums[0]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// A task of rows, which are there when `tiles` tiles are.
DEVICE void pass_rows(const LayerAt* layers, const LayerSizes& s, int group, const float* parts, int tiles,
                      CrossEntropy loss, unsigned* counters) {
  SHARED_DYN(float, memory);
  const int thread = threadIdx.x, first = group * s.group, rows = min(s.group, s.rows - first);
  for (int l = 1; l < s.count; l++) {
    const LayerAt& at = layers[l];
    for (int o = thread / 32; o < at.outputs; o += 8)
      for (int i = thread % 32; i < at.inputs; i += 32)
        copy_async<4>(memory + at.weights + o * at.pitch + i, at.w + (long long)o * at.inputs + i);
  }
  copy_commit();
  copy_wait<1>();
  __syncthreads();  // targets, if they were gathered
  const int counted = rows_counted<8>(loss);
  wait_for(counters + TILES_DONE + first / ForRows::TILE, tiles);
  {
    const LayerAt& at = layers[0];
    const long long begin = (long long)first * at.outputs, size = (long long)s.rows * at.outputs;
    for (int e = thread; e < rows * at.outputs; e += 256) {
      const float bias = at.bias(e % at.outputs);
      float sum = 0.0f;
#pragma unroll 4
      for (int part = 0; part < s.parts; part++) sum += __ldcg(parts + part * size + begin + e);
      memory[at.values + e] = at.y[begin + e] = at.activated(sum + bias);
    }
  }
  copy_wait<0>();
  __syncthreads();
  for (int l = 1; l < s.count; l++) {
    const LayerAt& at = layers[l];
    float* to = at.y + (long long)first * at.outputs;
    for (int e = thread; e < rows * at.outputs; e += 256) {
      const int o = e % at.outputs;
      const float *x = memory + layers[l - 1].values + e / at.outputs * at.inputs, *w = memory + at.weights + o * at.pitch;
      const float bias = at.bias(o);
      memory[at.values + e] = to[e] = at.activated(dot<true>(x, w, at.inputs, at.pitch) + bias);
    }
    __syncthreads();
  }
  double sum;
  {
    const LayerAt& at = layers[s.count - 1];
    const long long begin = (long long)first * at.outputs;
    float* of_loss = memory + at.values + whole_packs(s.group * at.outputs);
    loss.x = memory + at.values - begin;
    loss.dx = of_loss - begin;
    sum = sum_losses<8>(loss, first, first + rows, counted);
    __syncthreads();
    for (int e = thread; e < rows * at.outputs; e += 256) {
      float& value = memory[at.values + e];
      value = at.dy[begin + e] = at.behind_relu(of_loss[e], value);
    }
  }
  for (int l = s.count - 1; l > 0; l--) {
    __syncthreads();
    const LayerAt &at = layers[l], &before = layers[l - 1];
    float* to = before.dy + (long long)first * at.inputs;
    for (int e = thread; e < rows * at.inputs; e += 256) {
      const int i = e % at.inputs;
      const float *dz = memory + at.values + e / at.inputs * at.outputs, *w = memory + at.weights + i;
      float& value = memory[before.values + e];
      value = to[e] = before.behind_relu(dot<false>(dz, w, at.outputs, at.pitch), value);
    }
  }
  arrive(counters + GROUPS_DONE);
  mean_loss<8>(loss, sum, counted, group, (s.rows + s.group - 1) / s.group);
}

// Adam's step, if there is one, and what it keeps of all layers.
struct Update {
  const AdamStep* step;
  float *d, *v;
};

// A task behind those of rows.
DEVICE void gradient(const LayerAt* layers, const LayerSizes& s, int task, bool tf32, const Update& update) {
  int l = 0;
  for (; task >= layers[l].dw_tiles + layers[l].db_tiles; l++) task -= layers[l].dw_tiles + layers[l].db_tiles;
  const LayerAt& at = layers[l];
  const int columns = task - at.dw_tiles;
  if (columns >= 0)
    bias_gradient(at.dy, nullptr, at.db, s.rows, at.outputs, columns);
  else
    product<ForWeights, false, false>({at.dy, at.x, at.dw, at.outputs, at.inputs, s.rows}, task, tf32);
  if (!update.step) return;
  __syncthreads();  // the gradient is stored
  if (columns >= 0) {
    const int i = columns * 32 + threadIdx.x, place = at.b_place + i;
    if (threadIdx.x < 32 && i < at.outputs)
      adam_pack<1>(*update.step, at.b + i, at.db + i, update.d + place, update.v + place);
    return;
  }
  float *d = update.d + at.w_place, *v = update.v + at.w_place;
  auto tile = [&](auto width) {
    constexpr int V = decltype(width)::VALUE;
    for_packs<ForWeights, V>(task, at.outputs, at.inputs, [&](long long i) {
      adam_pack<V>(*update.step, at.w + i, at.dw + i, d + i, v + i);
    });
  };
  if (at.inputs % 4 == 0 && at_16_bytes(at.w, at.dw, d, v))
    tile(Width<4>());
  else
    tile(Width<1>());
}

// Pointers are not __restrict__: what one block writes, others read.
KERNEL(layers, 256, const float* x, float* w0, float* w1, float* w2, float* w3, float* b0, float* b1, float* b2, float* b3,
       float* y0, float* y1, float* y2, float* y3, float* dy0, float* dy1, float* dy2, float* dy3, float* dw0, float* dw1,
       float* dw2, float* dw3, float* db0, float* db1, float* db2, float* db3, LayerSizes s, int tf32, float* parts,
       const float* target, float smoothing, const float* df, float* f, double* partial, unsigned* counters,
       const unsigned char* data, const float* table, int channels, const float* targets, const unsigned* order,
       const Step* steps, int* taken, int again, int batch_size, Step* now, float* seed, float start, float* gathered_x,
       float* gathered_target, int adam, const AdamStep* adam_steps, LayerPlaces places, float* adam_d, float* adam_v) {
  SHARED(LayerAt, layers, [MOST_LAYERS]);
  SHARED(int, next, [1]);
  SHARED(unsigned, rows, [MOST_ROWS]);
  SHARED(float, classes, [MOST_ROWS]);
  SHARED(float, upstream, [1]);
  SHARED(float, numbers, [MOST_CHANNELS * 256]);
  SHARED(AdamStep, adam_step, [1]);
  // While the first task is asked for, the batch is found: its place, the samples of its rows, and their targets.
  const unsigned first = threadIdx.x == 0 ? atomicAdd(counters + TAKEN, 1u) : 0;
  int entry = 0;
  if (channels > 0) {
    entry = *taken - again;
    for (int i = threadIdx.x; i < channels * 256; i += 256) numbers[i] = table[i];
    const int row = threadIdx.x;
    if (row < s.rows) {
      rows[row] = order[(long long)entry * batch_size + row];
      copy_async<4>(classes + row, targets + rows[row]);
    }
    // The last block has rows to wait for, if there are enough.
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
      *now = steps[entry];
      *seed = start;
    }
  }
  copy_commit();
  if (threadIdx.x == 0) {
    next[0] = first;
    upstream[0] = start;
    auto set = [&](int l, const Layer& layer) { static_cast<Layer&>(layers[l]) = layer; };
    set(0, {x, w0, b0, y0, dy0, dw0, db0, s.inputs, s.outputs0, places.w0, places.b0});
    set(1, {y0, w1, b1, y1, dy1, dw1, db1, s.outputs0, s.outputs1, places.w1, places.b1});
    set(2, {y1, w2, b2, y2, dy2, dw2, db2, s.outputs1, s.outputs2, places.w2, places.b2});
    set(3, {y2, w3, b3, y3, dy3, dw3, db3, s.outputs2, s.outputs3, places.w3, places.b3});
    int end = 0;
    for (int l = 0; l < s.count; l++) {
      LayerAt& at = layers[l];
      at.relu = s.relu >> l & 1;
      if (!(s.biased >> l & 1)) at.b = nullptr;
      at.pitch = 4 * ((at.inputs + 3) / 4 | 1);  // neither packs of rows nor numbers of columns meet in a bank
      at.weights = end;
      if (l > 0) end += at.outputs * at.pitch;
      at.values = end;
      end += whole_packs(s.group * at.outputs);
      const bool trained = s.trained >> l & 1;
      at.dw_tiles = trained ? tiles_of(ForWeights::TILE, at.outputs, at.inputs) : 0;
      at.db_tiles = trained && at.b ? tiles_of(32, 1, at.outputs) : 0;
    }
  }
  SHARED(int, ends, [3]);  // of each kind of tasks
  const int across = tiles_of(ForRows::TILE, 1, s.outputs0), down = tiles_of(ForRows::TILE, s.rows, 1);
  const int groups = (s.rows + s.group - 1) / s.group;
  const Update update = {adam ? adam_step : nullptr, adam_d, adam_v};
  __syncthreads();
  if (threadIdx.x == 0) {
    int gradients = 0;
    for (int l = 0; l < s.count; l++) gradients += layers[l].dw_tiles + layers[l].db_tiles;
    ends[0] = across * down * s.parts;
    ends[1] = ends[0] + groups;
    ends[2] = ends[1] + gradients;
  }
  for (;;) {
    __syncthreads();
    const int task = next[0];
    if (task >= ends[2]) break;
    if (task < ends[0]) {
      const LayerAt& at = layers[0];
      const int part = task % s.parts;
      Product p = {at.x, at.w, parts + (long long)part * s.rows * at.outputs, s.rows, at.outputs, at.inputs};
      p.first = part * s.part * ForRows::SLICE;
      p.slices = s.part;
      const Samples samples = {data, rows, numbers, channels, task / s.parts % across > 0 ? nullptr : gathered_x};
      product<ForRows, true, true>(p, task / s.parts, tf32, samples);
      arrive(counters + TILES_DONE + next[0] / s.parts / across);
    } else if (task < ends[1]) {
      const LayerAt& last = layers[s.count - 1];
      unsigned* of_loss = counters + TILES_DONE + down;
      // x and dx are those rows', in shared memory.
      const CrossEntropy loss = {nullptr, channels > 0 ? classes : target, true, true, smoothing, channels > 0 ? upstream : df, f,
                                 nullptr, partial, of_loss, s.rows, last.outputs, true};
      pass_rows(layers, s, task - ends[0], parts, across * s.parts, loss, counters);
      const int place = threadIdx.x, row = (task - ends[0]) * s.group + place;
      if (channels > 0 && place < s.group && row < s.rows) gathered_target[row] = classes[row];
    } else {
      if (adam && threadIdx.x == 32) *adam_step = adam_steps[(channels > 0 ? steps[entry] : *now).slot];
      wait_for(counters + GROUPS_DONE, groups);
      gradient(layers, s, task - ends[1], tf32, update);
    }
    __syncthreads();  // all are done with the task
    if (threadIdx.x == 0) next[0] = atomicAdd(counters + TAKEN, 1u);
  }
  // As they were before.
  if (threadIdx.x > 0 || !is_last(counters + BLOCKS_DONE, gridDim.x)) return;
  if (channels > 0) *taken = entry + 1;
  counters[TAKEN] = counters[GROUPS_DONE] = 0;
  for (int row = 0; row < down; row++) counters[TILES_DONE + row] = 0;
}
