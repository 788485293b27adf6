// Convolution, channels last: y = max(norm(conv(x, w) + b) + r, 0), each part after conv optional.
//   x, dx (N, H, W, I); w, dw (O, I, K, K), as PyTorch keeps it; y, dy, r (N, H', W', O); b (O)
//   y[n, i, j, o]  = sum_{p, q, c} x[n, i s + p - pad, j s + q - pad, c] w[o, c, p, q]
//   dx[n, u, v, c] = sum_{o, p, q} dy[n, (u + pad - p) / s, (v + pad - q) / s, o] w[o, c, p, q], where both divide
//   dw[o, c, p, q] = sum_{n, i, j} dy[n, i, j, o] x[n, i s + p - pad, j s + q - pad, c]
//
// y and dx are one computation. A block makes TM pixels (a rectangle of one image, or several small images) by TN channels.
// 8 or 16 channels at a time it brings the patch of the input that its pixels see, each number once for all taps, and all
// taps of the weights, just as they lie in memory; a tap is then a shift within the patch. With stride s, the pixels of dx
// fall into s^2 classes with the same taps, which are convolutions of stride 1.
//
// dw: a block makes OT by IT channels with all taps from some of the pixels, and those of IT = 0 a part of db too; the last
// block of each OT by IT adds the parts up.
//
// Batch norm in training is split among the convolutions around it (batch_norm.cuh). The one before it makes its statistics,
// the last one on the way back to it the sums of its gradient; and what is read may be unfinished (`Finish`).
//
//   *_fp32   every product fused and added in single precision, in the order of channels, then taps
//   *_tf32   tensor cores (m16n8k8), operands rounded to TF32
//   *_TMxTN  3x3 kernels; *_any: all others, tiles of 64x32
#include "batch_norm.cuh"
#include "packs.cuh"

// A convolution, or one half of its gradient. Tensors have fewer than 2^31 elements.
struct Conv {
  int images;
  int in_h, in_w, in_c;     // what is read: x, or dy on the way to dx
  int out_h, out_w, out_c;  // what is written
  int kernel, stride, pad;
  int grid_h, grid_w;                        // pixels of a class of outputs
  int log_tile_h, log_tile_w, log_images;    // of the tile, in powers of two
  int patch_h, patch_w;                      // pixels of the input that an image's tile sees
  int stages;                                // chunks of channels in shared memory: 1, or 2 in turns
  int aligned_in, aligned_w;                 // rows of 4 channels lie at 16 bytes
  int biased, normed, residual, relu;        // what follows
  int counted, running;                      // a batch norm comes next, on the way back too; it keeps running averages
  int adds;                                  // the result is added to what is there
  int finish_in, finish_in_relu;             // what is read is unfinished, with a ReLU at the end
  int finish_dy;                             // so is dy for dw
};

constexpr int THREADS = 128;

// Of 4-byte numbers in front of what lies at 16 bytes.
DEVICE int round_up(int numbers) { return (numbers + 3) / 4 * 4; }

// e / d for 0 <= e < 2^16, d >= 2.
DEVICE unsigned reciprocal(int d) { return 0xffffffffu / (unsigned)d + 1; }
DEVICE int divide(int e, unsigned reciprocal) { return (int)__umulhi((unsigned)e, reciprocal); }

// The taps of one dimension that meet output pixels r, r + step, ...: output a step + r sees a scale + start + shift
// of the input through tap first + j step.
template <bool BACK>
struct Taps {
  int count, first, step, scale, start;
  METHOD Taps(const Conv& c, int kernel, int r) {
    if (BACK) {
      step = c.stride, scale = 1, first = (r + c.pad) % c.stride;
      count = first < kernel ? (kernel - 1 - first) / c.stride + 1 : 0;
      start = (r + c.pad - first) / c.stride - (count - 1);
    } else {
      step = 1, scale = c.stride, first = 0, count = kernel, start = -c.pad;
    }
  }
  // Where the first one lies in the patch, and in which direction the next ones.
  METHOD int shift() const { return BACK ? count - 1 : 0; }
  static constexpr int DIRECTION = BACK ? -1 : 1;
};

// Where a block is, and how many there are: in its grid,
struct WholeGrid {
  METHOD unsigned x() const { return blockIdx.x; }
  METHOD unsigned y() const { return blockIdx.y; }
  METHOD unsigned z() const { return blockIdx.z; }
  METHOD int x_again() const { return block_again(); }
  METHOD unsigned across() const { return gridDim.x; }
  METHOD unsigned down() const { return gridDim.y; }
  METHOD unsigned deep() const { return gridDim.z; }
};

// or in the part of a grid that does the same as it does.
class PartOfGrid {
  unsigned x_, y_, z_, across_, down_, deep_;

 public:
  METHOD PartOfGrid(unsigned block, unsigned across, unsigned down, unsigned deep)
      : x_(block % across), y_(block / across % down), z_(block / across / down), across_(across), down_(down),
        deep_(deep) {}
  METHOD unsigned x() const { return x_; }
  METHOD unsigned y() const { return y_; }
  METHOD unsigned z() const { return z_; }
  METHOD int x_again() const { return x_; }
  METHOD unsigned across() const { return across_; }
  METHOD unsigned down() const { return down_; }
  METHOD unsigned deep() const { return deep_; }
};

// Where a tile lies: its first image, and the first row and column of a class of outputs.
struct TileOrigin {
  int image, row, column;
  METHOD TileOrigin(const Conv& c, int tile) {
    const int across = (c.grid_w + (1 << c.log_tile_w) - 1) >> c.log_tile_w;
    const int down = (c.grid_h + (1 << c.log_tile_h) - 1) >> c.log_tile_h;
    column = (tile % across) << c.log_tile_w;
    row = (tile / across % down) << c.log_tile_h;
    image = (tile / across / down) << c.log_images;
  }
};

// Pixel m of a tile: image, row and column within the tile.
struct Pixel {
  int image, row, column;
  METHOD Pixel(const Conv& c, int m) {
    column = m & ((1 << c.log_tile_w) - 1);
    row = (m >> c.log_tile_w) & ((1 << c.log_tile_h) - 1);
    image = m >> (c.log_tile_w + c.log_tile_h);
  }
  // Of the first input pixel that it sees, in the patch.
  METHOD int in_patch(const Conv& c, int scale) const {
    return (image * c.patch_h + row * scale) * c.patch_w + column * scale;
  }
};

// Where pixels outside of a tensor begin: nothing is read there, but copies of four channels want an aligned address.
constexpr int OUTSIDE = -4;

// `height` by `width` pixels of each of 2^log_images images of a tensor.
struct Patch {
  const float* tensor;
  int images, rows, columns, channels, aligned;  // of the tensor
  int log_images, height, width;
  int image, top, left;  // where it begins
  METHOD int pixels() const { return (height * width) << log_images; }
  // Where a pixel of the patch begins in the tensor.
  METHOD int place(int pixel, unsigned per_image, unsigned per_row) const {
    const int n = divide(pixel, per_image), rest = pixel - n * height * width;
    const int row = divide(rest, per_row), column = rest - row * width, i = top + row, j = left + column;
    const bool inside = image + n < images && i >= 0 && i < rows && j >= 0 && j < columns;
    return inside ? (((image + n) * rows + i) * columns + j) * channels : OUTSIDE;
  }
};

// Where the pixels of a patch begin in its tensor: found once for all that is done with them.
DEVICE void place_pixels(int* places, const Patch& p) {
  const unsigned per_image = reciprocal(p.height * p.width), per_row = reciprocal(p.width);
  for (int pixel = threadIdx.x; pixel < p.pixels(); pixel += THREADS) places[pixel] = p.place(pixel, per_image, per_row);
}

// A tensor t that is yet to be finished: lines[0] t + lines[1], plus lines[2] other if there is one, then max(., 0) if `relu`.
// `lines` (3, channels), per channel; null where nothing is to be done.
struct Finish {
  const float *lines, *other;
  bool relu;
};

template <int V>
DEVICE void round_pack(Pack<V>& v) {
#pragma unroll
  for (int i = 0; i < V; i++) v.at[i] = __uint_as_float(tf32_operand(v.at[i]));
}

// 2^LOG_C channels of a patch in shared memory, as pieces of V: 4 where these lie at 16 bytes, else 1. A thread has the same
// channels of all its pixels.
template <int V, int LOG_C>
struct Pieces {
  static constexpr int PER_PIXEL = (1 << LOG_C) / V;
  float* to;
  int pitch;
  const int* places;
  int pixels;

  static METHOD int channel() { return threadIdx.x % PER_PIXEL * V; }

  // Calls some(Width<N>, at, place) for N of this thread's pieces at a time, MOST or 1: the i-th lies STEP * pitch * i behind `at`.
  static constexpr int STEP = THREADS / PER_PIXEL;
  template <int MOST, class Some>
  METHOD void each(Some some) const {
    const int first = threadIdx.x / PER_PIXEL;
    const int *from = places + first, *end = places + pixels;
    float* at = to + first * pitch + channel();
    auto turn = [&](auto width) {
      constexpr int N = decltype(width)::VALUE;
      int place[N];
#pragma unroll
      for (int i = 0; i < N; i++) place[i] = from[i * STEP];
      some(width, at, place);
      from += N * STEP, at += N * STEP * pitch;
    };
#pragma unroll 1
    while (from + (MOST - 1) * STEP < end) turn(Width<MOST>());
#pragma unroll 1
    while (from < end) turn(Width<1>());
  }

  // Brings channels from c0 on; 0 for pixels outside and for channels that are not there.
  METHOD void copy(const float* tensor, int c0, int channels) const {
    const int c = c0 + channel();
    each<4>([&](auto width, float* at, const int* place) {
#pragma unroll
      for (int i = 0; i < decltype(width)::VALUE; i++)
        copy_async_if<4 * V>(place[i] >= 0 && c < channels, at + i * STEP * pitch, tensor + (unsigned)(c + place[i]));
    });
  }

  // Finishes what the same thread has copied, hands it to `see`, and rounds it if TF32. OTHER: if it is unfinished, then by
  // another tensor, without a ReLU.
  template <bool TF32, bool OTHER, class See>
  METHOD void finish(const Finish& f, int c0, int channels, See see) const {
    const int c = c0 + channel();
    if (c >= channels) return;
    Pack<V> scale = {}, offset = {}, factor = {};
    if (f.lines) scale = load<V>(f.lines + c), offset = load<V>(f.lines + channels + c);
    if (f.lines && OTHER) factor = load<V>(f.lines + 2 * channels + c);
    const float least = f.relu ? 0.0f : -INFINITY;
    auto pass = [&](auto finishes) {
      each<TF32 || OTHER ? 2 : 4>([&](auto width, float* at, const int* place) {
        constexpr int N = decltype(width)::VALUE;
        constexpr bool FINISHES = decltype(finishes)::VALUE;
        Pack<V> v[N], other[N] = {};
#pragma unroll
        for (int n = 0; n < N; n++) {
          v[n] = load<V>(at + n * STEP * pitch);
          if (FINISHES && OTHER) other[n] = load<V>(f.other + (unsigned)(c + max(place[n], 0)));
        }
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
          for (int i = 0; FINISHES && i < V; i++) {
            const float rest = OTHER ? fmaf(other[n].at[i], factor.at[i], offset.at[i]) : offset.at[i];
            v[n].at[i] = fmaf(v[n].at[i], scale.at[i], rest);
            if (!OTHER) v[n].at[i] = max_or_nan(v[n].at[i], least);
          }
          see(v[n], place[n] >= 0);
          if (TF32) round_pack(v[n]);
          if (!FINISHES || place[n] >= 0) store(at + n * STEP * pitch, v[n]);
        }
      });
    };
    if (f.lines)
      pass(Width<true>());
    else
      pass(Width<false>());
  }
};

// Calls what(pieces) for those of a patch: of few channels only where few are there and bringing more would cost.
template <int LOG_C, class What>
DEVICE void with_pieces(float* to, int pitch, const int* places, const Patch& p, int channels, What what) {
  if (p.aligned)
    what(Pieces<4, LOG_C>{to, pitch, places, p.pixels()});
  else if (LOG_C > 3 && channels <= 8)
    what(Pieces<1, 3>{to, pitch, places, p.pixels()});
  else
    what(Pieces<1, LOG_C>{to, pitch, places, p.pixels()});
}

// ROWS rows of `len` floats in shared memory. A thread has pieces of V of one row: piece(row, first, i) for those i behind
// its first one.
template <int ROWS, int V, class Piece>
DEVICE void each_of_rows(int len, Piece piece) {
  constexpr int SHARERS = THREADS / ROWS;
  const int row = threadIdx.x / SHARERS, first = threadIdx.x % SHARERS * V;
#pragma unroll
  for (int i = 0; i < len; i += SHARERS * V)
    if (first + i < len) piece(row, first, i);
}

// Brings them from where they lie `stride` apart; 0 behind `valid` floats of a row and behind `valid_rows` rows.
template <int ROWS, int V>
DEVICE void copy_rows(float* to, int pitch, const float* from, int len, long long stride, int valid_rows, int valid) {
  each_of_rows<ROWS, V>(len, [&](int row, int first, int i) {
    copy_async_if<4 * V>(row < valid_rows && first + i < valid, to + row * pitch + first + i,
                         from + row * stride + first + i);
  });
}

// Rounds what the same thread brought.
template <int ROWS, int V>
DEVICE void round_rows(float* to, int pitch, int len) {
  each_of_rows<ROWS, V>(len, [&](int row, int first, int i) {
    float* at = to + row * pitch + first + i;
    Pack<V> v = load<V>(at);
    round_pack(v);
    store(at, v);
  });
}

// Which entries of a tile's result a thread holds: ROWS x COLUMNS of them.
template <int TM, int TN, bool TF32>
struct Fragments {
  static constexpr int CHUNK = TN == 64 ? 8 : 16;  // channels in shared memory at a time
  static constexpr int PITCH = CHUNK + 4;          // of a pixel there: 8 pixels by 4 channels lie in 32 banks
  static constexpr int WARPS_N = TM == 64 || TN == 64 ? 2 : 1, WARPS_M = 4 / WARPS_N;
  static constexpr int MF = TM / WARPS_M / 16, NF = TN / WARPS_N / 8;             // fragments of a warp
  static constexpr int ACROSS = TN == 16 ? 4 : 8, DOWN = THREADS / ACROSS;        // threads, without tensor cores
  static constexpr int ROWS = TF32 ? 2 * MF : TM / DOWN, COLUMNS = TF32 ? 2 * NF : TN / ACROSS;
  static constexpr int SHARES = TF32 ? 8 * WARPS_M : DOWN;  // threads that hold parts of one column
  static constexpr int COUNT = ROWS * COLUMNS, NEIGHBOURS = TF32 ? 2 : 1;  // entries side by side

  static METHOD int lane() { return threadIdx.x % 32; }
  static METHOD int warp_m() { return threadIdx.x / 32 / WARPS_N; }
  static METHOD int warp_n() { return threadIdx.x / 32 % WARPS_N; }
  static METHOD int row(int i) {
    return TF32 ? (warp_m() * MF + i / 2) * 16 + i % 2 * 8 + lane() / 4 : threadIdx.x / ACROSS + i * DOWN;
  }
  static METHOD int column(int j) {
    return TF32 ? (warp_n() * NF + j / 2) * 8 + lane() % 4 * 2 + j % 2 : threadIdx.x % ACROSS + j * ACROSS;
  }
  // The row and the column of a fragment of pixels that a lane's address for `load_matrices` names.
  static METHOD int fragment_row(int mf) { return (warp_m() * MF + mf) * 16 + lane() % 16; }
  static METHOD int fragment_column() { return lane() / 16 * 4; }
  static METHOD int share() { return TF32 ? warp_m() * 8 + lane() / 4 : threadIdx.x / ACROSS; }
  static METHOD constexpr int index(int i, int j) {
    return TF32 ? (i / 2 * NF + j / 2) * 4 + i % 2 * 2 + j % 2 : i * COLUMNS + j;
  }
};

// Calls one(e, place) for every entry e of column j of a thread that lies in the result, or two(e, place) for it and its
// neighbour in the next column, which tensor cores leave to the same thread. `at` says where rows begin, or -1.
template <int TM, int TN, bool TF32, class One, class Two>
DEVICE void each_row(const int (&at)[Fragments<TM, TN, TF32>::ROWS], int j, int n0, int channels, bool pairs, One one,
                     Two two) {
  using F = Fragments<TM, TN, TF32>;
  const int n = n0 + F::column(j);
  if (n >= channels) return;
#pragma unroll
  for (int i = 0; pairs && i < F::ROWS; i++)
    if (at[i] >= 0) two(F::index(i, j), at[i] + n);
#pragma unroll
  for (int i = 0; !pairs && i < F::ROWS; i++) {
    if (at[i] < 0) continue;
    one(F::index(i, j), at[i] + n);
    if (TF32 && n + 1 < channels) one(F::index(i, j) + 1, at[i] + n + 1);
  }
}

template <int TM, int TN, bool TF32, class One, class Two>
DEVICE void each_entry(const int (&at)[Fragments<TM, TN, TF32>::ROWS], int n0, int channels, bool pairs, One one,
                       Two two) {
  using F = Fragments<TM, TN, TF32>;
#pragma unroll
  for (int j = 0; j < F::COLUMNS; j += F::NEIGHBOURS) each_row<TM, TN, TF32>(at, j, n0, channels, pairs, one, two);
}

// Adds a chunk of `steps` times 8 channels to the sums. Weights lie as [n][channel][tap], or [channel][n][tap] if BACK.
template <int TM, int TN, bool TF32, bool BACK, int K>
DEVICE void add_chunk(float (&sums)[TM * TN / THREADS], const float* patch, const float* ws, const Conv& c,
                      const Taps<BACK>& down, const Taps<BACK>& across, int steps) {
  using F = Fragments<TM, TN, TF32>;
  const int kernel = K ? K : c.kernel, taps = kernel * kernel;
  constexpr int PITCH = F::PITCH, DIRECTION = Taps<BACK>::DIRECTION;
  const int pitch = BACK ? TN * taps + 8 : F::CHUNK * taps + 4;
  const int per_n = BACK ? taps : pitch, per_channel = BACK ? pitch : taps;
  const int q = F::lane() % 4, g = F::lane() / 4;
  // What a thread's sums see through the first tap of a row: their pixels, or with tensor cores those that it loads for all
  // lanes' fragments.
  constexpr int PIXELS = TF32 ? F::MF : F::ROWS;
  const float* x[PIXELS];
#pragma unroll
  for (int i = 0; i < PIXELS; i++) {
    const int pixel = Pixel(c, TF32 ? F::fragment_row(i) : F::row(i)).in_patch(c, down.scale);
    x[i] = patch + (pixel + down.shift() * c.patch_w + across.shift()) * PITCH + (TF32 ? F::fragment_column() : 0);
  }
  const float* row = ws + down.first * kernel + across.first;
  row += TF32 ? (F::warp_n() * F::NF * 8 + g) * per_n + q * per_channel : threadIdx.x % F::ACROSS * per_n;
#pragma unroll 1
  for (int ty = 0; ty < down.count; ty++) {
    const float* w = row;
#pragma unroll(TF32&& K ? K : 1)
    for (int tx = 0; tx < (K ? K : across.count); tx++) {
      if (K && tx == across.count) break;
      const int shift = tx * DIRECTION * PITCH;
      if (TF32) {
#pragma unroll
        for (int step = 0; step < F::CHUNK / 8; step++) {
          if (step == steps) break;
          unsigned b[F::NF][2];
#pragma unroll
          for (int nf = 0; nf < F::NF; nf++)
#pragma unroll
            for (int half = 0; half < 2; half++)
              b[nf][half] = __float_as_uint(w[nf * 8 * per_n + (step * 8 + half * 4) * per_channel]);
#pragma unroll
          for (int mf = 0; mf < F::MF; mf++) {
            unsigned a[4];
            load_matrices<false>(a, x[mf % PIXELS] + shift + step * 8);
#pragma unroll
            for (int nf = 0; nf < F::NF; nf++)
              mma_tf32(*reinterpret_cast<float(*)[4]>(&sums[(mf * F::NF + nf) * 4]), a, b[nf]);
          }
        }
      } else {
#pragma unroll 1
        for (int k = 0; k < steps * 8; k += 4) {
          float4 a[F::ROWS];
#pragma unroll
          for (int i = 0; i < F::ROWS; i++) a[i] = *reinterpret_cast<const float4*>(x[i % PIXELS] + shift + k);
#pragma unroll
          for (int j = 0; j < F::COLUMNS; j++) {
            const float* b = w + j * F::ACROSS * per_n + k * per_channel;
            const float b0 = b[0], b1 = b[per_channel], b2 = b[2 * per_channel], b3 = b[3 * per_channel];
#pragma unroll
            for (int i = 0; i < F::ROWS; i++) {
              float& sum = sums[F::index(i, j)];
              sum = fmaf(a[i].w, b3, fmaf(a[i].z, b2, fmaf(a[i].y, b1, fmaf(a[i].x, b0, sum))));
            }
          }
        }
      }
      w += across.step;
    }
#pragma unroll
    for (int i = 0; i < PIXELS; i++) x[i] += DIRECTION * c.patch_w * PITCH;
    row += down.step * kernel;
  }
}

// What a convolution reads and writes beside its input x and its result y.
struct Others {
  const float* w;
  Finish finish_in;
  // Forward: bias, batch norm in evaluation, residual; batch norm in training.
  const float *bias, *gamma, *beta, *averages, *residual;
  const Step* now;
  float *saved, *running;
  // Back to a batch norm: what it was given, and its result where that tells which dx are masked.
  const float *norm_x, *norm_y, *norm_saved;
  float *dgamma, *dbeta, *terms;
  // Both: sums per channel, (channels / TN, blocks, 2, TN).
  double* partial;
  unsigned* counters;
};

// y, or dx if BACK.
template <int TM, int TN, bool TF32, bool BACK, int K, class Grid>
DEVICE void convolve(const float* x, float* y, const Others& o, const Conv& c, const Grid& block) {
  using F = Fragments<TM, TN, TF32>;
  constexpr int CHUNK = F::CHUNK, PITCH = F::PITCH;
  const float* w = o.w;
  SHARED_DYN(float, shared);
  const int kernel = K ? K : c.kernel, taps = kernel * kernel, side = BACK ? c.stride : 1;
  const Taps<BACK> down(c, kernel, block.z() / side), across(c, kernel, block.z() % side);
  const int n0 = block.y() * TN;
  const TileOrigin origin(c, block.x());
  const Patch seen = {x, c.images, c.in_h, c.in_w, c.in_c, c.aligned_in, c.log_images, c.patch_h, c.patch_w, origin.image,
                      origin.row * down.scale + down.start, origin.column * across.scale + across.start};
  const int pitch = BACK ? TN * taps + 8 : CHUNK * taps + 4, patch_len = seen.pixels() * PITCH;
  constexpr int W_ROWS = BACK ? CHUNK : TN;
  const int stage_len = patch_len + W_ROWS * pitch;
  const int chunks = down.count > 0 && across.count > 0 ? (c.in_c + CHUNK - 1) / CHUNK : 0;
  int* places = reinterpret_cast<int*>(shared);
  float* stages = shared + round_up(seen.pixels());
  place_pixels(places, seen);
  __syncthreads();

  auto steps = [&](int chunk) { return CHUNK == 8 || c.in_c - chunk * CHUNK <= 8 ? 1 : 2; };
  constexpr int LOG_CHUNK = CHUNK == 8 ? 3 : 4;
  auto load_stage = [&](int chunk) {
    float* to = stages + chunk % c.stages * stage_len;
    const int c0 = chunk * CHUNK;
    with_pieces<LOG_CHUNK>(to, PITCH, places, seen, c.in_c - c0, [&](auto pieces) { pieces.copy(x, c0, c.in_c); });
    const float* from = BACK ? w + ((long long)c0 * c.out_c + n0) * taps : w + ((long long)n0 * c.in_c + c0) * taps;
    const long long stride = (long long)(BACK ? c.out_c : c.in_c) * taps;
    const int rows = BACK ? c.in_c - c0 : c.out_c - n0, len = (BACK ? c.out_c - n0 : c.in_c - c0) * taps;
    if (c.aligned_w)
      copy_rows<W_ROWS, 4>(to + patch_len, pitch, from, (BACK ? TN : CHUNK) * taps, stride, rows, len);
    else
      copy_rows<W_ROWS, 1>(to + patch_len, pitch, from, (BACK ? TN : steps(chunk) * 8) * taps, stride, rows, len);
    copy_commit();
  };

  float sums[F::COUNT] = {};
  if (chunks > 0) load_stage(0);
  for (int chunk = 0; chunk < chunks; chunk++) {
    const bool more = chunk + 1 < chunks;
    if (more && c.stages == 2) {
      load_stage(chunk + 1);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    float* patch = stages + chunk % c.stages * stage_len;
    const int c0 = chunk * CHUNK;
    with_pieces<LOG_CHUNK>(patch, PITCH, places, seen, c.in_c - c0, [&](auto pieces) {
      if (TF32 || o.finish_in.lines)
        pieces.template finish<TF32, BACK>(o.finish_in, c0, c.in_c, [](const auto&, bool) {});
    });
    if (TF32 && c.aligned_w)
      round_rows<W_ROWS, 4>(patch + patch_len, pitch, (BACK ? TN : CHUNK) * taps);
    else if (TF32)
      round_rows<W_ROWS, 1>(patch + patch_len, pitch, (BACK ? TN : steps(chunk) * 8) * taps);
    __syncthreads();
    add_chunk<TM, TN, TF32, BACK, K>(sums, patch, patch + patch_len, c, down, across, steps(chunk));
    __syncthreads();
    if (more && c.stages == 1) load_stage(chunk + 1);
  }

  if (!BACK && (c.biased || c.normed)) {
#pragma unroll
    for (int j = 0; j < F::COLUMNS; j++) {
      const int n = min(n0 + F::column(j), c.out_c - 1);
      float scale = 1.0f, shift = c.biased ? o.bias[n] : 0.0f;
      if (c.normed) {
        scale = o.gamma[n] / sqrtf(o.averages[c.out_c + n] + EPS);
        shift = o.beta[n] + scale * (shift - o.averages[n]);
      }
#pragma unroll
      for (int i = 0; i < F::ROWS; i++) sums[F::index(i, j)] = fmaf(sums[F::index(i, j)], scale, shift);
    }
  }
  // Where the rows' pixels lie in the result, -1 outside; of the columns two neighbours at once where that is possible.
  int at[F::ROWS];
  const TileOrigin to(c, block.x_again());
#pragma unroll
  for (int i = 0; i < F::ROWS; i++) {
    const Pixel pixel(c, F::row(i));
    const int image = to.image + pixel.image;
    int row = to.row + pixel.row, column = to.column + pixel.column;
    if (BACK) row = row * side + (int)block.z() / side, column = column * side + (int)block.z() % side;
    const bool inside = image < c.images && row < c.out_h && column < c.out_w;
    at[i] = inside ? ((image * c.out_h + row) * c.out_w + column) * c.out_c : -1;
  }
  const float* term = BACK ? (c.adds ? y : nullptr) : (c.residual ? o.residual : nullptr);
  auto at_8_bytes = [](const float* tensor) { return reinterpret_cast<uintptr_t>(tensor) % 8 == 0; };
  const bool aligned = at_8_bytes(y) && at_8_bytes(term) && at_8_bytes(o.norm_x) && at_8_bytes(o.norm_y);
  const bool pairs = TF32 && c.out_c % 2 == 0 && aligned;
  if (term) {
    each_entry<TM, TN, TF32>(at, n0, c.out_c, pairs, [&](int e, int to) { sums[e] += term[to]; },
                             [&](int e, int to) {
                               const float2 v = *reinterpret_cast<const float2*>(term + to);
                               sums[e] += v.x, sums[e + 1] += v.y;
                             });
  }
  if (!BACK && c.relu)
#pragma unroll
    for (int e = 0; e < F::COUNT; e++) sums[e] = sums[e] < 0.0f ? 0.0f : sums[e];
  // Of y and y^2, or of dx, masked, and dx (x - mean): every thread's sums, then in the order of threads that share a column.
  double* parts = reinterpret_cast<double*>(shared);  // [share][2][TN]
  if (c.counted) {
    // Where dx is masked the batch norm's result is not positive: without a residual z = scale x + offset.
    const bool by_result = c.relu && c.residual;
#pragma unroll
    for (int j = 0; j < F::COLUMNS; j += F::NEIGHBOURS) {
      double totals[2] = {}, products[2] = {};
      float scale[2], offset[2];
#pragma unroll
      for (int i = 0; BACK && i < F::NEIGHBOURS; i++) {
        const float* saved = o.norm_saved + min(n0 + F::column(j + i), c.out_c - 1);
        scale[i] = c.relu ? saved[0] : 0.0f, offset[i] = c.relu ? saved[c.out_c] : 1.0f;
      }
      auto add = [&](int e, float x, float result) {
        const int i = e % F::NEIGHBOURS;
        if (BACK) {
          const float z = by_result ? result : fmaf(x, scale[i], offset[i]);
          sums[e] = z <= 0.0f ? 0.0f : sums[e];
        }
        totals[i] += (double)sums[e];
        products[i] = fma((double)sums[e], (double)x, products[i]);
      };
      each_row<TM, TN, TF32>(
          at, j, n0, c.out_c, pairs,
          [&](int e, int to) { add(e, BACK ? o.norm_x[to] : sums[e], BACK && by_result ? o.norm_y[to] : 0.0f); },
          [&](int e, int to) {
            Pack<2> x = {sums[e], sums[e + 1]}, result = {};
            if (BACK) x = load<2>(o.norm_x + to);
            if (BACK && by_result) result = load<2>(o.norm_y + to);
            add(e, x.at[0], result.at[0]), add(e + 1, x.at[1], result.at[1]);
          });
#pragma unroll
      for (int i = 0; i < F::NEIGHBOURS; i++) {
        if (BACK) {
          const double mean = o.norm_saved[2 * c.out_c + min(n0 + F::column(j + i), c.out_c - 1)];
          products[i] = fma(-mean, totals[i], products[i]);
        }
        parts[F::share() * 2 * TN + F::column(j + i)] = totals[i];
        parts[(F::share() * 2 + 1) * TN + F::column(j + i)] = products[i];
      }
    }
  }
  each_entry<TM, TN, TF32>(at, n0, c.out_c, pairs, [&](int e, int to) { y[to] = sums[e]; },
                           [&](int e, int to) {
                             *reinterpret_cast<float2*>(y + to) = make_float2(sums[e], sums[e + 1]);
                           });
  if (!c.counted) return;
  __syncthreads();
  const int row = block.z() * block.across() + block.x(), rows = block.across() * block.deep();
  double* partial = o.partial + (long long)block.y() * rows * 2 * TN;
  for (int e = threadIdx.x; e < 2 * TN; e += THREADS) {
    double sum = 0.0;
    for (int s = 0; s < F::SHARES; s++) sum += parts[s * 2 * TN + e];
    partial[(long long)row * 2 * TN + e] = sum;
  }
  unsigned* counters = o.counters + block.y() * counters_of(rows);
  if (!sum_over_blocks(partial, 2 * TN, row, rows, counters, [=](int e, double sum) { parts[e] = sum; })) return;
  __syncthreads();
  const double outputs = (double)c.images * c.out_h * c.out_w;
  const int count = min(TN, c.out_c - n0);
  if (BACK)
    finish_gradient(parts, TN, n0, count, o.norm_saved, o.dgamma, o.dbeta, o.terms, outputs, c.out_c);
  else
    finish_statistics(parts, TN, n0, count, o.now, o.gamma, o.beta, o.saved, o.running, c.running, outputs, c.out_c);
}

// A part of dw (OT channels of dy by IT of x, TAPS taps, or if TAPS is 1 the one that the block's place names) from every
// `across`-th tile of pixels. In shared memory pixels lie 8 banks apart, modulo 32. `parts` (z, y, x, part), each part as its
// weights lie, and behind them OT numbers of db.
template <int OT, int IT, bool TF32, int TAPS, bool BIAS, class Grid>
DEVICE void weight_gradient(const float* x, const float* dy, const Finish& finish_x, const Finish& finish_dy, float* dw,
                            float* db, float* parts, unsigned* counters, const Conv& c, int tiles, const Grid& block) {
  constexpr int X_PITCH = IT + 8, DY_PITCH = OT + 8, SIDE = TAPS == 9 ? 3 : 1;
  constexpr int WARPS_N = IT / 8, WARPS_K = 4 / WARPS_N, MF = OT / 16;  // warps share the channels of x, then the pixels
  constexpr int ACROSS = 8, DOWN = THREADS / ACROSS, IN = IT / ACROSS, OUT = OT / DOWN;  // without tensor cores
  SHARED_DYN(float, shared);
  const int taps = c.kernel * c.kernel, tap0 = TAPS == 1 ? block.z() % taps : 0;
  const int o0 = block.y() * OT, i0 = (TAPS == 1 ? block.z() / taps : block.z()) * IT;
  const int pixels = 1 << (c.log_tile_h + c.log_tile_w + c.log_images);
  const int patch_pixels = (c.patch_h * c.patch_w) << c.log_images, patch_len = patch_pixels * X_PITCH;
  const int stage_len = patch_len + pixels * DY_PITCH;
  constexpr int LOG_I = IT == 16 ? 4 : 5, LOG_O = OT == 16 ? 4 : OT == 32 ? 5 : 6;
  const int pack = c.aligned_w ? 4 : 1, pieces = OT / pack;  // of a pixel of dy
  const bool biased = BIAS && c.biased && block.z() == 0;
  double bias[4] = {};

  // What a tile sees of x and dy. Only where pixels lie differs between tiles.
  auto patch_of_x = [&](const TileOrigin& origin) {
    return Patch{x, c.images, c.in_h, c.in_w, c.in_c, c.aligned_in, c.log_images, c.patch_h, c.patch_w, origin.image,
                 origin.row * c.stride - c.pad + tap0 / c.kernel, origin.column * c.stride - c.pad + tap0 % c.kernel};
  };
  auto patch_of_dy = [&](const TileOrigin& origin) {
    return Patch{dy, c.images, c.out_h, c.out_w, c.out_c, c.aligned_w, c.log_images, 1 << c.log_tile_h,
                 1 << c.log_tile_w, origin.image, origin.row, origin.column};
  };
  int* places = reinterpret_cast<int*>(shared);  // of two tiles, in turns
  float* stages = shared + 2 * round_up(patch_pixels + pixels);
  auto place_tile = [&](int tile, int turn) {
    const TileOrigin origin(c, tile);
    int* to = places + turn * round_up(patch_pixels + pixels);
    place_pixels(to, patch_of_x(origin));
    place_pixels(to + patch_pixels, patch_of_dy(origin));
  };
  auto with_x = [&](int turn, auto what) {
    with_pieces<LOG_I>(stages + turn % c.stages * stage_len, X_PITCH, places + turn * round_up(patch_pixels + pixels),
                       patch_of_x(TileOrigin(c, 0)), c.in_c - i0, what);
  };
  auto with_dy = [&](int turn, auto what) {
    with_pieces<LOG_O>(stages + turn % c.stages * stage_len + patch_len, DY_PITCH,
                       places + turn * round_up(patch_pixels + pixels) + patch_pixels, patch_of_dy(TileOrigin(c, 0)), OT, what);
  };
  auto load_tile = [&](int turn) {
    with_x(turn, [&](auto pieces) { pieces.copy(x, i0, c.in_c); });
    with_dy(turn, [&](auto pieces) { pieces.copy(dy, o0, c.out_c); });
    copy_commit();
  };

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int warp_n = warp % WARPS_N, warp_k = warp / WARPS_N;
  constexpr int COUNT = TF32 ? TAPS * MF * 4 : TAPS * IN * OUT;
  float sums[COUNT] = {};
  const int step = block.across();
  if ((int)block.x() < tiles) place_tile(block.x(), 0);
  if ((int)block.x() + step < tiles) place_tile(block.x() + step, 1);
  __syncthreads();
  if ((int)block.x() < tiles) load_tile(0);
  int turn = 0;
#pragma unroll 1
  for (int tile = block.x(); tile < tiles; tile += step, turn ^= 1) {
    const bool more = tile + step < tiles;
    if (more && c.stages == 2) {
      load_tile(turn ^ 1);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    float *xs = stages + turn % c.stages * stage_len, *ds = xs + patch_len;
    with_x(turn, [&](auto pieces) {
      if (TF32 || finish_x.lines) pieces.template finish<TF32, false>(finish_x, i0, c.in_c, [](const auto&, bool) {});
    });
    with_dy(turn, [&](auto pieces) {
      auto see = [&](const auto& v, bool inside) {
        constexpr int V = sizeof v / sizeof v.at[0];
        const bool adds = biased && inside;
#pragma unroll
        for (int i = 0; i < V; i++)
          if (adds) bias[i] += v.at[i];
      };
      if (TF32 || finish_dy.lines || biased) pieces.template finish<TF32, true>(finish_dy, o0, c.out_c, see);
    });
    __syncthreads();
    if (tile + 2 * step < tiles) place_tile(tile + 2 * step, turn);
    if (TF32) {
      // Eight columns at a time, perhaps of several images, down the rows: what the taps of two rows see of x stays where
      // the next row needs it.
      const int rows = 1 << c.log_tile_h, columns = pixels >> c.log_tile_h, width = 1 << c.log_tile_w;
#pragma unroll 1
      for (int first = warp_k * 8; first < columns; first += WARPS_K * 8) {
        const float *to_x[2], *to_dy[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int column = first + half * 4 + q, image = column >> c.log_tile_w, j = column & (width - 1);
          to_x[half] = xs + (image * c.patch_h * c.patch_w + j * c.stride) * X_PITCH + warp_n * 8 + g;
          to_dy[half] = ds + ((image << (c.log_tile_h + c.log_tile_w)) + j) * DY_PITCH + g;
        }
        unsigned b[SIDE][SIDE][2];
        auto load_row = [&](int ty, unsigned(&to)[SIDE][2]) {
#pragma unroll
          for (int tx = 0; tx < SIDE; tx++)
#pragma unroll
            for (int half = 0; half < 2; half++)
              to[tx][half] = __float_as_uint(to_x[half][(ty * c.patch_w + tx) * X_PITCH]);
        };
        // A row of pixels, of which the taps of row ty have b[(turn + ty) % SIDE].
        auto add_row = [&](int turn) {
          unsigned a[MF][4];
#pragma unroll
          for (int mf = 0; mf < MF; mf++)
#pragma unroll
            for (int r = 0; r < 4; r++) a[mf][r] = __float_as_uint(to_dy[r / 2][mf * 16 + r % 2 * 8]);
#pragma unroll
          for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
            for (int mf = 0; mf < MF; mf++)
              mma_tf32(*reinterpret_cast<float(*)[4]>(&sums[(tap * MF + mf) * 4]), a[mf],
                       b[(turn + tap / SIDE) % SIDE][tap % SIDE]);
#pragma unroll
          for (int half = 0; half < 2; half++) {
            to_x[half] += c.stride * c.patch_w * X_PITCH;
            to_dy[half] += width * DY_PITCH;
          }
        };
        if (SIDE > 1 && c.stride == 1) {
#pragma unroll
          for (int ty = 0; ty < SIDE - 1; ty++) load_row(ty, b[ty]);
#pragma unroll 1
          for (int row = 0; row < rows; row += SIDE) {
#pragma unroll
            for (int turn = 0; turn < SIDE; turn++) {
              if (row + turn >= rows) break;
              load_row(SIDE - 1, b[(turn + SIDE - 1) % SIDE]);
              add_row(turn);
            }
          }
        } else {
#pragma unroll 1
          for (int row = 0; row < rows; row++) {
#pragma unroll
            for (int ty = 0; ty < SIDE; ty++) load_row(ty, b[ty]);
            add_row(0);
          }
        }
      }
    } else {
#pragma unroll 1
      for (int p = 0; p < pixels; p++) {
        const float* from = xs + Pixel(c, p).in_patch(c, c.stride) * X_PITCH + threadIdx.x % ACROSS * IN;
        float d[OUT];
#pragma unroll
        for (int j = 0; j < OUT; j++) d[j] = ds[p * DY_PITCH + threadIdx.x / ACROSS + j * DOWN];
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
          const int shift = (tap / SIDE * c.patch_w + tap % SIDE) * X_PITCH;
#pragma unroll
          for (int i = 0; i < IN; i++) {
            const float v = from[shift + i];
#pragma unroll
            for (int j = 0; j < OUT; j++) {
              float& sum = sums[(tap * IN + i) * OUT + j];
              sum = fmaf(d[j], v, sum);
            }
          }
        }
      }
    }
    __syncthreads();
    if (more && c.stages == 1) load_tile(turn ^ 1);
  }

  // Through shared memory, as weights lie: [o][i][tap]. Behind them db.
  constexpr int WEIGHTS_LEN = OT * IT * TAPS, LEN = WEIGHTS_LEN + OT;
  float* result = shared;
#pragma unroll 1
  for (int sharer = 0; sharer < (TF32 ? WARPS_K : 1); sharer++) {
    if (!TF32 || warp_k == sharer) {
#pragma unroll
      for (int e = 0; e < COUNT; e++) {
        int o, i, tap;
        if (TF32) {
          const int r = e % 4, mf = e / 4 % MF;
          o = mf * 16 + r / 2 * 8 + g, i = warp_n * 8 + q * 2 + r % 2, tap = e / 4 / MF;
        } else {
          o = threadIdx.x / ACROSS + e % OUT * DOWN, i = threadIdx.x % ACROSS * IN + e / OUT % IN, tap = e / OUT / IN;
        }
        float& to = result[(o * IT + i) * TAPS + tap];
        to = sharer == 0 ? sums[e] : to + sums[e];
      }
    }
    __syncthreads();
  }
  if (biased) {
    SHARED(double, shares, [4][THREADS]);
    for (int i = 0; i < 4; i++) shares[i][threadIdx.x] = bias[i];
    __syncthreads();
    for (int o = threadIdx.x; o < OT; o += THREADS) {
      double sum = 0.0;
      for (int t = o / pack; t < THREADS; t += pieces) sum += shares[o % pack][t];
      result[WEIGHTS_LEN + o] = (float)sum;
    }
    __syncthreads();
  }
  const int len = biased ? LEN : WEIGHTS_LEN;
  auto store = [&](int e, float value) {
    const int o = o0 + (e < WEIGHTS_LEN ? e / (IT * TAPS) : e - WEIGHTS_LEN), i = i0 + e / TAPS % IT;
    if (o >= c.out_c) return;
    if (e >= WEIGHTS_LEN)
      db[o] = value;
    else if (i < c.in_c)
      dw[((long long)o * c.in_c + i) * taps + tap0 + e % TAPS] = value;
  };
  if (block.across() == 1) {
    for (int e = threadIdx.x; e < len; e += THREADS) store(e, result[e]);
    return;
  }
  const int tile = block.z() * block.down() + block.y(), blocks = block.across();
  float* rows = parts + (long long)tile * blocks * LEN;
  for (int e = threadIdx.x; e < len; e += THREADS) rows[(long long)block.x() * len + e] = result[e];
  counters += tile * counters_of(blocks);
  sum_over_blocks(rows, len, block.x(), blocks, counters, [&](int e, double sum) { store(e, (float)sum); });
}

#define FORWARD                                                                                                       \
  const float *__restrict__ x, const float *__restrict__ x_lines, const float *__restrict__ w,                        \
      const float *__restrict__ b, const float *__restrict__ gamma, const float *__restrict__ beta,                   \
      const float *__restrict__ averages, const float *__restrict__ r, float *__restrict__ y,                         \
      const Step *__restrict__ now, double *__restrict__ partial, unsigned *__restrict__ counters,                    \
      float *__restrict__ saved, float *__restrict__ running, Conv c
#define GIVEN_FORWARD x, x_lines, w, b, gamma, beta, averages, r, y, now, partial, counters, saved, running, c

template <int TM, int TN, bool TF32, int K>
DEVICE void forward(FORWARD) {
  Others o = {};
  o.w = w, o.bias = b, o.gamma = gamma, o.beta = beta, o.averages = averages, o.residual = r;
  o.finish_in = {c.finish_in ? x_lines : nullptr, nullptr, c.finish_in_relu != 0};
  o.now = now, o.partial = partial, o.counters = counters, o.saved = saved, o.running = running;
  convolve<TM, TN, TF32, false, K>(x, y, o, c, WholeGrid());
}

#define BACKWARD_X                                                                                                 \
  const float *__restrict__ dy, const float *__restrict__ dy_lines, const float *__restrict__ dy_other,            \
      const float *__restrict__ w, float *__restrict__ dx, const float *__restrict__ norm_x,                       \
      const float *__restrict__ norm_y, const float *__restrict__ norm_saved, double *__restrict__ partial,        \
      unsigned *__restrict__ counters, float *__restrict__ dgamma, float *__restrict__ dbeta,                      \
      float *__restrict__ terms, Conv c
#define GIVEN_BACKWARD_X \
  dy, dy_lines, dy_other, w, dx, norm_x, norm_y, norm_saved, partial, counters, dgamma, dbeta, terms, c

template <int TM, int TN, bool TF32, int K, class Grid>
DEVICE void backward_x(BACKWARD_X, const Grid& block) {
  Others o = {};
  o.w = w, o.finish_in = {c.finish_in ? dy_lines : nullptr, dy_other, false};
  o.norm_x = norm_x, o.norm_y = norm_y, o.norm_saved = norm_saved, o.partial = partial, o.counters = counters;
  o.dgamma = dgamma, o.dbeta = dbeta, o.terms = terms;
  convolve<TM, TN, TF32, true, K>(dy, dx, o, c, block);
}

#define BACKWARD_W                                                                                               \
  const float *__restrict__ x, const float *__restrict__ x_lines, const float *__restrict__ dy,                  \
      const float *__restrict__ dy_lines, const float *__restrict__ dy_other, float *__restrict__ dw,            \
      float *__restrict__ db, float *__restrict__ parts, unsigned *__restrict__ counters, Conv c, int tiles
#define GIVEN_BACKWARD_W x, x_lines, dy, dy_lines, dy_other, dw, db, parts, counters, c, tiles

template <int OT, int IT, bool TF32, int TAPS, bool BIAS = true, class Grid>
DEVICE void backward_w(BACKWARD_W, const Grid& block) {
  const Finish finish_x = {c.finish_in ? x_lines : nullptr, nullptr, c.finish_in_relu != 0};
  const Finish finish_dy = {c.finish_dy ? dy_lines : nullptr, dy_other, false};
  weight_gradient<OT, IT, TF32, TAPS, BIAS>(x, dy, finish_x, finish_dy, dw, db, parts, counters, c, tiles, block);
}

// Both at once, since neither waits for the other: the first blocks make dw, which takes them longer.
struct Both {
  int w_across, w_down, w_deep, x_across, x_down, x_deep;  // grids of dw and of dx
};

#define BACKWARD                                                                                                    \
  const float *__restrict__ x, const float *__restrict__ x_lines, const float *__restrict__ dy,                     \
      const float *__restrict__ dy_lines, const float *__restrict__ dy_other, const float *__restrict__ w,          \
      float *__restrict__ dx, const float *__restrict__ norm_x, const float *__restrict__ norm_y,                   \
      const float *__restrict__ norm_saved, double *__restrict__ partial, unsigned *__restrict__ counters,          \
      float *__restrict__ dgamma, float *__restrict__ dbeta, float *__restrict__ terms, Conv c,                     \
      float *__restrict__ dw, float *__restrict__ db, float *__restrict__ parts, unsigned *__restrict__ w_counters, \
      Conv w_c, int tiles, Both grids
#define GIVEN_BACKWARD                                                                                             \
  x, x_lines, dy, dy_lines, dy_other, w, dx, norm_x, norm_y, norm_saved, partial, counters, dgamma, dbeta, terms, \
      c, dw, db, parts, w_counters, w_c, tiles, grids

template <int TM, int TN, int OT, int IT, bool BIAS>
DEVICE void backward(BACKWARD) {
  const int of_w = grids.w_across * grids.w_down * grids.w_deep, block = blockIdx.x;
  if (block < of_w)
    backward_w<OT, IT, true, 9, BIAS>(x, x_lines, dy, dy_lines, dy_other, dw, db, parts, w_counters, w_c, tiles,
                                PartOfGrid(block, grids.w_across, grids.w_down, grids.w_deep));
  else
    backward_x<TM, TN, true, 3>(GIVEN_BACKWARD_X,
                                PartOfGrid(block - of_w, grids.x_across, grids.x_down, grids.x_deep));
}

KERNEL(conv2d_fwd_tf32_128x16, 128, FORWARD) { forward<128, 16, true, 3>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_tf32_128x32, 128, FORWARD) { forward<128, 32, true, 3>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_tf32_128x64, 128, FORWARD) { forward<128, 64, true, 3>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_tf32_64x32, 128, FORWARD) { forward<64, 32, true, 3>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_tf32_any, 128, FORWARD) { forward<64, 32, true, 0>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_fp32_128x16, 128, FORWARD) { forward<128, 16, false, 3>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_fp32_128x32, 128, FORWARD) { forward<128, 32, false, 3>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_fp32_128x64, 128, FORWARD) { forward<128, 64, false, 3>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_fp32_64x32, 128, FORWARD) { forward<64, 32, false, 3>(GIVEN_FORWARD); }
KERNEL(conv2d_fwd_fp32_any, 128, FORWARD) { forward<64, 32, false, 0>(GIVEN_FORWARD); }
KERNEL(conv2d_bwd_x_tf32_128x16, 128, BACKWARD_X) { backward_x<128, 16, true, 3>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_tf32_128x32, 128, BACKWARD_X) { backward_x<128, 32, true, 3>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_tf32_128x64, 128, BACKWARD_X) { backward_x<128, 64, true, 3>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_tf32_64x32, 128, BACKWARD_X) { backward_x<64, 32, true, 3>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_tf32_any, 128, BACKWARD_X) { backward_x<64, 32, true, 0>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_fp32_128x16, 128, BACKWARD_X) { backward_x<128, 16, false, 3>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_fp32_128x32, 128, BACKWARD_X) { backward_x<128, 32, false, 3>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_fp32_128x64, 128, BACKWARD_X) { backward_x<128, 64, false, 3>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_fp32_64x32, 128, BACKWARD_X) { backward_x<64, 32, false, 3>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_x_fp32_any, 128, BACKWARD_X) { backward_x<64, 32, false, 0>(GIVEN_BACKWARD_X, WholeGrid()); }
KERNEL(conv2d_bwd_w_tf32_16x16, 128, BACKWARD_W) { backward_w<16, 16, true, 9>(GIVEN_BACKWARD_W, WholeGrid()); }
KERNEL(conv2d_bwd_w_tf32_32x32, 128, BACKWARD_W) { backward_w<32, 32, true, 9>(GIVEN_BACKWARD_W, WholeGrid()); }
KERNEL(conv2d_bwd_w_tf32_any, 128, BACKWARD_W) { backward_w<32, 32, true, 1>(GIVEN_BACKWARD_W, WholeGrid()); }
KERNEL(conv2d_bwd_w_fp32_16x16, 128, BACKWARD_W) { backward_w<16, 16, false, 9>(GIVEN_BACKWARD_W, WholeGrid()); }
KERNEL(conv2d_bwd_w_fp32_32x32, 128, BACKWARD_W) { backward_w<32, 32, false, 9>(GIVEN_BACKWARD_W, WholeGrid()); }
KERNEL(conv2d_bwd_w_fp32_any, 128, BACKWARD_W) { backward_w<32, 32, false, 1>(GIVEN_BACKWARD_W, WholeGrid()); }
KERNEL(conv2d_bwd_tf32_128x16_16x16, 128, BACKWARD) { backward<128, 16, 16, 16, false>(GIVEN_BACKWARD); }
KERNEL(conv2d_bwd_tf32_128x32_16x16, 128, BACKWARD) { backward<128, 32, 16, 16, false>(GIVEN_BACKWARD); }
KERNEL(conv2d_bwd_tf32_64x32_16x16, 128, BACKWARD) { backward<64, 32, 16, 16, false>(GIVEN_BACKWARD); }
KERNEL(conv2d_bwd_tf32_128x64_64x32, 128, BACKWARD) { backward<128, 64, 64, 32, true>(GIVEN_BACKWARD); }
KERNEL(conv2d_bwd_tf32_64x32_64x32, 128, BACKWARD) { backward<64, 32, 64, 32, true>(GIVEN_BACKWARD); }
