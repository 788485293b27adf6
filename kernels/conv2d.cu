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

// e / d for 0 <= e < 2^16, d >= 2.
DEVICE unsigned reciprocal(int d) { return 0xffffffffu / (unsigned)d + 1; }
DEVICE int divide(int e, unsigned reciprocal) { return (int)__umulhi((unsigned)e, reciprocal); }

// The taps of one dimension that meet output pixels r, r + step, ...: output a step + r sees a scale + start + shift
// of the input through tap first + j step.
template <bool BACK>
struct Taps {
  int count, first, step, scale, start;
  METHOD Taps(const Conv& c, int r) {
    if (BACK) {
      step = c.stride, scale = 1, first = (r + c.pad) % c.stride;
      count = first < c.kernel ? (c.kernel - 1 - first) / c.stride + 1 : 0;
      start = (r + c.pad - first) / c.stride - (count - 1);
    } else {
      step = 1, scale = c.stride, first = 0, count = c.kernel, start = -c.pad;
    }
  }
  METHOD int tap(int j) const { return first + j * step; }
  METHOD int shift(int j) const { return BACK ? count - 1 - j : j; }
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

// `height` by `width` pixels of each of 2^log_images images of a tensor, and some of their channels.
struct Patch {
  const float* tensor;
  int images, rows, columns, channels, aligned;  // of the tensor
  int log_images, height, width;
  int image, top, left, c0;  // where it begins
  METHOD int pixels() const { return (height * width) << log_images; }
  // Where a channel of a pixel of the patch lies in the tensor, -1 outside.
  METHOD int place(int pixel, int channel, unsigned per_image, unsigned per_row) const {
    const int n = divide(pixel, per_image), rest = pixel - n * height * width;
    const int row = divide(rest, per_row), column = rest - row * width, i = top + row, j = left + column;
    const bool inside = image + n < images && i >= 0 && i < rows && j >= 0 && j < columns && channel < channels;
    return inside ? (((image + n) * rows + i) * columns + j) * channels + channel : -1;
  }
};

// Brings the first 2^log_c channels of a patch; 0 outside. Pieces are of 4 channels where these lie at 16 bytes. A thread has
// the same channels of all its pixels.
DEVICE void copy_patch(float* to, int pitch, const Patch& p, int log_c) {
  const unsigned per_image = reciprocal(p.height * p.width), per_row = reciprocal(p.width);
  const int log_pieces = p.aligned ? log_c - 2 : log_c;
  for (int e = threadIdx.x; e < p.pixels() << log_pieces; e += THREADS) {
    const int pixel = e >> log_pieces, part = (e & ((1 << log_pieces) - 1)) * (p.aligned ? 4 : 1);
    const int at = p.place(pixel, p.c0 + part, per_image, per_row);
    const float* from = at < 0 ? p.tensor : p.tensor + at;
    if (p.aligned)
      copy_async<16>(to + pixel * pitch + part, from, at < 0 ? 0 : 16);
    else
      copy_async<4>(to + pixel * pitch + part, from, at < 0 ? 0 : 4);
  }
}

// Rounds a number, or four.
DEVICE void round_piece(float* at, bool four) {
  if (four) {
    float4& v = *reinterpret_cast<float4*>(at);
    v = make_float4(__uint_as_float(to_tf32(v.x)), __uint_as_float(to_tf32(v.y)), __uint_as_float(to_tf32(v.z)),
                    __uint_as_float(to_tf32(v.w)));
  } else {
    *at = __uint_as_float(to_tf32(*at));
  }
}

// Rounds what the same thread brought by `copy_patch`.
DEVICE void round_patch(float* to, int pitch, const Patch& p, int log_c) {
  const int log_pieces = p.aligned ? log_c - 2 : log_c;
  for (int e = threadIdx.x; e < p.pixels() << log_pieces; e += THREADS) {
    const int pixel = e >> log_pieces, part = e & ((1 << log_pieces) - 1);
    round_piece(to + pixel * pitch + (p.aligned ? part * 4 : part), p.aligned);
  }
}

// A tensor t that is yet to be finished: lines[0] t + lines[1], plus lines[2] other if there is one, then max(., 0) if `relu`.
// `lines` (3, channels), per channel.
struct Finish {
  const float *lines, *other;
  bool relu;
};

DEVICE float finished(float v, float scale, float offset, bool relu) {
  v = fmaf(v, scale, offset);
  return relu && v < 0.0f ? 0.0f : v;
}

// Finishes what the same thread brought by `copy_patch`; outside of the images it stays 0.
DEVICE void finish_patch(float* to, int pitch, const Patch& p, int log_c, const Finish& f) {
  const unsigned per_image = reciprocal(p.height * p.width), per_row = reciprocal(p.width);
  const int log_pieces = p.aligned ? log_c - 2 : log_c;
  const int part = (threadIdx.x & ((1 << log_pieces) - 1)) * (p.aligned ? 4 : 1), c = p.c0 + part;
  if (c >= p.channels) return;
  float lines[3][4];
#pragma unroll
  for (int l = 0; l < 3; l++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      lines[l][i] = (i == 0 || p.aligned) && (l < 2 || f.other) ? f.lines[l * p.channels + c + i] : 0.0f;
#pragma unroll 2
  for (int e = threadIdx.x; e < p.pixels() << log_pieces; e += THREADS) {
    const int pixel = e >> log_pieces, at = p.place(pixel, c, per_image, per_row);
    if (at < 0) continue;
    float* v = to + pixel * pitch + part;
    if (p.aligned) {
      const float4 x = *reinterpret_cast<const float4*>(v);
      float4 r = make_float4(lines[1][0], lines[1][1], lines[1][2], lines[1][3]);
      if (f.other) {
        const float4 o = *reinterpret_cast<const float4*>(f.other + at);
        r = make_float4(fmaf(o.x, lines[2][0], r.x), fmaf(o.y, lines[2][1], r.y), fmaf(o.z, lines[2][2], r.z),
                        fmaf(o.w, lines[2][3], r.w));
      }
      *reinterpret_cast<float4*>(v) =
          make_float4(finished(x.x, lines[0][0], r.x, f.relu), finished(x.y, lines[0][1], r.y, f.relu),
                      finished(x.z, lines[0][2], r.z, f.relu), finished(x.w, lines[0][3], r.w, f.relu));
    } else {
      const float r = f.other ? fmaf(f.other[at], lines[2][0], lines[1][0]) : lines[1][0];
      *v = finished(*v, lines[0][0], r, f.relu);
    }
  }
}

// Brings `rows` rows of `len` floats (a multiple of 8), `stride` apart from each other; 0 behind `valid` floats of a row
// and behind `valid_rows` rows.
DEVICE void copy_rows(float* to, int pitch, const float* from, int rows, int len, long long stride, int valid_rows,
                      int valid, bool aligned) {
  const int pieces = aligned ? len / 4 : len;
  const unsigned per_row = reciprocal(pieces);
  for (int e = threadIdx.x; e < rows * pieces; e += THREADS) {
    const int row = divide(e, per_row), part = e - row * pieces;
    const int left = row < valid_rows ? valid - (aligned ? part * 4 : part) : 0;
    const float* source = left > 0 ? from + row * stride + (aligned ? part * 4 : part) : from;
    if (aligned)
      copy_async<16>(to + row * pitch + part * 4, source, max(0, min(left, 4)) * 4);
    else
      copy_async<4>(to + row * pitch + part, source, left > 0 ? 4 : 0);
  }
}

// Rounds what the same thread brought by `copy_rows`.
DEVICE void round_rows(float* to, int pitch, int rows, int len, bool aligned) {
  const int pieces = aligned ? len / 4 : len;
  const unsigned per_row = reciprocal(pieces);
  for (int e = threadIdx.x; e < rows * pieces; e += THREADS) {
    const int row = divide(e, per_row), part = e - row * pieces;
    round_piece(to + row * pitch + (aligned ? part * 4 : part), aligned);
  }
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
  static constexpr int COUNT = ROWS * COLUMNS;

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

// Calls one(e, place) for every entry e of a thread that lies in the result, or two(e, place) for it and its neighbour.
// `at` says where rows begin, or -1.
template <int TM, int TN, bool TF32, class One, class Two>
DEVICE void each_entry(const int (&at)[Fragments<TM, TN, TF32>::ROWS], int n0, int channels, bool pairs, One one,
                       Two two) {
  using F = Fragments<TM, TN, TF32>;
#pragma unroll
  for (int i = 0; i < F::ROWS; i++) {
#pragma unroll
    for (int j = 0; j < F::COLUMNS; j += TF32 ? 2 : 1) {
      const int n = n0 + F::column(j), e = F::index(i, j);
      if (at[i] < 0 || n >= channels) continue;
      if (pairs) {
        two(e, at[i] + n);
      } else {
        one(e, at[i] + n);
        if (TF32 && n + 1 < channels) one(e + 1, at[i] + n + 1);
      }
    }
  }
}

// Adds a chunk of `steps` times 8 channels to the sums. Weights lie as [n][channel][tap], or [channel][n][tap] if BACK.
template <int TM, int TN, bool TF32, bool BACK, int K>
DEVICE void add_chunk(float (&sums)[TM * TN / THREADS], const float* patch, const float* ws, const Conv& c,
                      const Taps<BACK>& down, const Taps<BACK>& across, int steps) {
  using F = Fragments<TM, TN, TF32>;
  const int kernel = K ? K : c.kernel, taps = kernel * kernel;
  constexpr int PITCH = F::PITCH;
  const int pitch = BACK ? TN * taps + 8 : F::CHUNK * taps + 4;
  const int per_n = BACK ? taps : pitch, per_channel = BACK ? pitch : taps;
  // Where a thread's pixels lie: those of its sums, or with tensor cores those that it loads for all lanes' fragments.
  constexpr int PIXELS = TF32 ? F::MF : F::ROWS;
  int pixels[PIXELS];
#pragma unroll
  for (int i = 0; i < PIXELS; i++) {
    const int row = TF32 ? F::fragment_row(i) : F::row(i);
    pixels[i] = Pixel(c, row).in_patch(c, down.scale) * PITCH + (TF32 ? F::fragment_column() : 0);
  }
  const int q = F::lane() % 4, g = F::lane() / 4;
#pragma unroll 1
  for (int ty = 0; ty < down.count; ty++) {
#pragma unroll 1
    for (int tx = 0; tx < across.count; tx++) {
      const float* x = patch + (down.shift(ty) * c.patch_w + across.shift(tx)) * PITCH;
      const float* w = ws + down.tap(ty) * kernel + across.tap(tx);
      if (TF32) {
        w += (F::warp_n() * F::NF * 8 + g) * per_n + q * per_channel;
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
            load_matrices<false>(a, x + pixels[mf % PIXELS] + step * 8);
#pragma unroll
            for (int nf = 0; nf < F::NF; nf++)
              mma_tf32(*reinterpret_cast<float(*)[4]>(&sums[(mf * F::NF + nf) * 4]), a, b[nf]);
          }
        }
      } else {
        w += threadIdx.x % F::ACROSS * per_n;
#pragma unroll 1
        for (int k = 0; k < steps * 8; k += 4) {
          float4 a[F::ROWS];
#pragma unroll
          for (int i = 0; i < F::ROWS; i++) a[i] = *reinterpret_cast<const float4*>(x + pixels[i] + k);
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
    }
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
template <int TM, int TN, bool TF32, bool BACK, int K>
DEVICE void convolve(const float* x, float* y, const Others& o, const Conv& c) {
  using F = Fragments<TM, TN, TF32>;
  constexpr int CHUNK = F::CHUNK, PITCH = F::PITCH;
  const float* w = o.w;
  SHARED_DYN(float, shared);
  const int kernel = K ? K : c.kernel, taps = kernel * kernel, side = BACK ? c.stride : 1;
  const Taps<BACK> down(c, blockIdx.z / side), across(c, blockIdx.z % side);
  const int n0 = blockIdx.y * TN;
  const int patch_len = ((c.patch_h * c.patch_w) << c.log_images) * PITCH;
  const int pitch = BACK ? TN * taps + 8 : CHUNK * taps + 4;
  const int stage_len = patch_len + (BACK ? CHUNK : TN) * pitch;
  const int chunks = down.count > 0 && across.count > 0 ? (c.in_c + CHUNK - 1) / CHUNK : 0;

  auto steps = [&](int chunk) { return CHUNK == 8 || c.in_c - chunk * CHUNK <= 8 ? 1 : 2; };
  auto patch_of = [&](int c0) {
    const TileOrigin origin(c, block_again());
    const int top = origin.row * down.scale + down.start, left = origin.column * across.scale + across.start;
    return Patch{x, c.images, c.in_h, c.in_w, c.in_c, c.aligned_in, c.log_images, c.patch_h, c.patch_w,
                 origin.image, top, left, c0};
  };
  auto load_stage = [&](int chunk) {
    float* to = shared + chunk % c.stages * stage_len;
    const int c0 = chunk * CHUNK, channels = steps(chunk) * 8;
    copy_patch(to, PITCH, patch_of(c0), steps(chunk) == 1 ? 3 : 4);
    if (BACK)
      copy_rows(to + patch_len, pitch, w + ((long long)c0 * c.out_c + n0) * taps, channels, TN * taps,
                (long long)c.out_c * taps, c.in_c - c0, (c.out_c - n0) * taps, c.aligned_w);
    else
      copy_rows(to + patch_len, pitch, w + ((long long)n0 * c.in_c + c0) * taps, TN, channels * taps,
                (long long)c.in_c * taps, c.out_c - n0, (c.in_c - c0) * taps, c.aligned_w);
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
    float* patch = shared + chunk % c.stages * stage_len;
    if (c.finish_in) finish_patch(patch, PITCH, patch_of(chunk * CHUNK), steps(chunk) == 1 ? 3 : 4, o.finish_in);
    if (TF32) {
      const int channels = steps(chunk) * 8;
      round_patch(patch, PITCH, patch_of(0), steps(chunk) == 1 ? 3 : 4);
      round_rows(patch + patch_len, pitch, BACK ? channels : TN, (BACK ? TN : channels) * taps, c.aligned_w);
    }
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
  const TileOrigin to(c, block_again());
#pragma unroll
  for (int i = 0; i < F::ROWS; i++) {
    const Pixel pixel(c, F::row(i));
    const int image = to.image + pixel.image;
    int row = to.row + pixel.row, column = to.column + pixel.column;
    if (BACK) row = row * side + (int)blockIdx.z / side, column = column * side + (int)blockIdx.z % side;
    const bool inside = image < c.images && row < c.out_h && column < c.out_w;
    at[i] = inside ? ((image * c.out_h + row) * c.out_w + column) * c.out_c : -1;
  }
  const float* term = BACK ? (c.adds ? y : nullptr) : (c.residual ? o.residual : nullptr);
  const bool aligned = (reinterpret_cast<uintptr_t>(y) | reinterpret_cast<uintptr_t>(term)) % 8 == 0;
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
#pragma unroll
    for (int j = 0; j < F::COLUMNS; j++) {
      const int n = n0 + F::column(j), channel = min(n, c.out_c - 1);
      double sum = 0.0, products = 0.0;
      float mean = 0.0f, scale = 0.0f, offset = 0.0f;
      if (BACK) mean = o.norm_saved[2 * c.out_c + channel];
      if (BACK && c.relu && !c.residual)
        scale = o.norm_saved[channel], offset = o.norm_saved[c.out_c + channel];
#pragma unroll
      for (int i = 0; i < F::ROWS; i++) {
        float& v = sums[F::index(i, j)];
        if (at[i] < 0 || n >= c.out_c) continue;
        float other = v;
        if (BACK) {
          other = o.norm_x[at[i] + n];
          if (c.relu && (c.residual ? o.norm_y[at[i] + n] : fmaf(other, scale, offset)) <= 0.0f) v = 0.0f;
          other -= mean;
        }
        sum += (double)v;
        products = fma((double)v, (double)other, products);
      }
      parts[F::share() * 2 * TN + F::column(j)] = sum;
      parts[(F::share() * 2 + 1) * TN + F::column(j)] = products;
    }
  }
  each_entry<TM, TN, TF32>(at, n0, c.out_c, pairs, [&](int e, int to) { y[to] = sums[e]; },
                           [&](int e, int to) {
                             *reinterpret_cast<float2*>(y + to) = make_float2(sums[e], sums[e + 1]);
                           });
  if (!c.counted) return;
  __syncthreads();
  const int row = blockIdx.z * gridDim.x + blockIdx.x, rows = gridDim.x * gridDim.z;
  double* partial = o.partial + (long long)blockIdx.y * rows * 2 * TN;
  for (int e = threadIdx.x; e < 2 * TN; e += THREADS) {
    double sum = 0.0;
    for (int s = 0; s < F::SHARES; s++) sum += parts[s * 2 * TN + e];
    partial[(long long)row * 2 * TN + e] = sum;
  }
  unsigned* counters = o.counters + blockIdx.y * counters_of(rows);
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
// gridDim.x-th tile of pixels. In shared memory pixels lie 8 banks apart, modulo 32. `parts` (blockIdx.z, blockIdx.y,
// blockIdx.x, part), each part as its weights lie, and behind them OT numbers of db.
template <int OT, int IT, bool TF32, int TAPS>
DEVICE void weight_gradient(const float* x, const float* dy, const Finish& finish_x, const Finish& finish_dy, float* dw,
                            float* db, float* parts, unsigned* counters, const Conv& c, int tiles) {
  constexpr int X_PITCH = IT + 8, DY_PITCH = OT + 8, SIDE = TAPS == 9 ? 3 : 1;
  constexpr int WARPS_N = IT / 8, WARPS_K = 4 / WARPS_N, MF = OT / 16;  // warps share the channels of x, then the pixels
  constexpr int ACROSS = 8, DOWN = THREADS / ACROSS, IN = IT / ACROSS, OUT = OT / DOWN;  // without tensor cores
  SHARED_DYN(float, shared);
  const int taps = c.kernel * c.kernel, tap0 = TAPS == 1 ? blockIdx.z % taps : 0;
  const int o0 = blockIdx.y * OT, i0 = (TAPS == 1 ? blockIdx.z / taps : blockIdx.z) * IT;
  const int pixels = 1 << (c.log_tile_h + c.log_tile_w + c.log_images);
  const int patch_len = ((c.patch_h * c.patch_w) << c.log_images) * X_PITCH, stage_len = patch_len + pixels * DY_PITCH;
  constexpr int LOG_I = IT == 16 ? 4 : 5, LOG_O = OT == 16 ? 4 : OT == 32 ? 5 : 6;
  const int pieces = c.aligned_w ? OT / 4 : OT;  // of a pixel of dy
  const bool biased = c.biased && blockIdx.z == 0;
  double bias[4] = {};

  auto patch_of_x = [&](const TileOrigin& origin) {
    return Patch{x, c.images, c.in_h, c.in_w, c.in_c, c.aligned_in, c.log_images, c.patch_h, c.patch_w, origin.image,
                 origin.row * c.stride - c.pad + tap0 / c.kernel, origin.column * c.stride - c.pad + tap0 % c.kernel,
                 i0};
  };
  auto patch_of_dy = [&](const TileOrigin& origin) {
    return Patch{dy, c.images, c.out_h, c.out_w, c.out_c, c.aligned_w, c.log_images, 1 << c.log_tile_h,
                 1 << c.log_tile_w, origin.image, origin.row, origin.column, o0};
  };
  auto load_stage = [&](int tile, int stage) {
    const TileOrigin origin(c, tile);
    float* to = shared + stage * stage_len;
    copy_patch(to, X_PITCH, patch_of_x(origin), LOG_I);
    copy_patch(to + patch_len, DY_PITCH, patch_of_dy(origin), LOG_O);
    copy_commit();
  };

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int warp_n = warp % WARPS_N, warp_k = warp / WARPS_N;
  constexpr int COUNT = TF32 ? TAPS * MF * 4 : TAPS * IN * OUT;
  float sums[COUNT] = {};
  int stage = 0;
  if ((int)blockIdx.x < tiles) load_stage(blockIdx.x, 0);
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, stage ^= 1) {
    if (tile + (int)gridDim.x < tiles) {
      load_stage(tile + gridDim.x, stage ^ 1);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    float *xs = shared + stage * stage_len, *ds = xs + patch_len;
    const TileOrigin origin(c, tile);
    if (c.finish_in) finish_patch(xs, X_PITCH, patch_of_x(origin), LOG_I, finish_x);
    if (c.finish_dy) finish_patch(ds, DY_PITCH, patch_of_dy(origin), LOG_O, finish_dy);
    if (biased) {
#pragma unroll 2
      for (int e = threadIdx.x; e < pixels * pieces; e += THREADS) {
        const int m = e / pieces, at = m * DY_PITCH + (e - m * pieces) * (c.aligned_w ? 4 : 1);
        bias[0] += ds[at];
        if (c.aligned_w) bias[1] += ds[at + 1], bias[2] += ds[at + 2], bias[3] += ds[at + 3];
      }
    }
    if (TF32) {
      round_patch(xs, X_PITCH, patch_of_x(origin), LOG_I);
      round_patch(ds, DY_PITCH, patch_of_dy(origin), LOG_O);
    }
    __syncthreads();
    if (TF32) {
#pragma unroll 1
      for (int p = warp_k * 8; p < pixels; p += WARPS_K * 8) {
        unsigned a[MF][4];
#pragma unroll
        for (int mf = 0; mf < MF; mf++)
#pragma unroll
          for (int r = 0; r < 4; r++)
            a[mf][r] = __float_as_uint(ds[(p + q + r / 2 * 4) * DY_PITCH + mf * 16 + g + r % 2 * 8]);
        const float* b0 = xs + Pixel(c, p + q).in_patch(c, c.stride) * X_PITCH + warp_n * 8 + g;
        const float* b1 = xs + Pixel(c, p + q + 4).in_patch(c, c.stride) * X_PITCH + warp_n * 8 + g;
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
          const int shift = (tap / SIDE * c.patch_w + tap % SIDE) * X_PITCH;
          const unsigned b[2] = {__float_as_uint(b0[shift]), __float_as_uint(b1[shift])};
#pragma unroll
          for (int mf = 0; mf < MF; mf++)
            mma_tf32(*reinterpret_cast<float(*)[4]>(&sums[(tap * MF + mf) * 4]), a[mf], b);
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
  }

  // Through shared memory, as weights lie: [o][i][tap]. Behind them db.
  constexpr int WEIGHTS_LEN = OT * IT * TAPS, LEN = WEIGHTS_LEN + OT;
  float* result = shared;
#pragma unroll 1
  for (int turn = 0; turn < (TF32 ? WARPS_K : 1); turn++) {
    if (!TF32 || warp_k == turn) {
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
        to = turn == 0 ? sums[e] : to + sums[e];
      }
    }
    __syncthreads();
  }
  if (biased) {
    SHARED(double, shares, [4][THREADS]);
    for (int i = 0; i < 4; i++) shares[i][threadIdx.x] = bias[i];
    __syncthreads();
    const int pack = c.aligned_w ? 4 : 1;
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
  if (gridDim.x == 1) {
    for (int e = threadIdx.x; e < len; e += THREADS) store(e, result[e]);
    return;
  }
  const int tile = blockIdx.z * gridDim.y + blockIdx.y, blocks = gridDim.x;
  float* rows = parts + (long long)tile * blocks * LEN;
  for (int e = threadIdx.x; e < len; e += THREADS) rows[(long long)blockIdx.x * len + e] = result[e];
  counters += tile * counters_of(blocks);
  sum_over_blocks(rows, len, blockIdx.x, blocks, counters, [&](int e, double sum) { store(e, (float)sum); });
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
  o.finish_in = {x_lines, nullptr, c.finish_in_relu != 0};
  o.now = now, o.partial = partial, o.counters = counters, o.saved = saved, o.running = running;
  convolve<TM, TN, TF32, false, K>(x, y, o, c);
}

#define BACKWARD_X                                                                                                 \
  const float *__restrict__ dy, const float *__restrict__ dy_lines, const float *__restrict__ dy_other,            \
      const float *__restrict__ w, float *__restrict__ dx, const float *__restrict__ norm_x,                       \
      const float *__restrict__ norm_y, const float *__restrict__ norm_saved, double *__restrict__ partial,        \
      unsigned *__restrict__ counters, float *__restrict__ dgamma, float *__restrict__ dbeta,                      \
      float *__restrict__ terms, Conv c
#define GIVEN_BACKWARD_X \
  dy, dy_lines, dy_other, w, dx, norm_x, norm_y, norm_saved, partial, counters, dgamma, dbeta, terms, c

template <int TM, int TN, bool TF32, int K>
DEVICE void backward_x(BACKWARD_X) {
  Others o = {};
  o.w = w, o.finish_in = {dy_lines, dy_other, false};
  o.norm_x = norm_x, o.norm_y = norm_y, o.norm_saved = norm_saved, o.partial = partial, o.counters = counters;
  o.dgamma = dgamma, o.dbeta = dbeta, o.terms = terms;
  convolve<TM, TN, TF32, true, K>(dy, dx, o, c);
}

#define BACKWARD_W                                                                                               \
  const float *__restrict__ x, const float *__restrict__ x_lines, const float *__restrict__ dy,                  \
      const float *__restrict__ dy_lines, const float *__restrict__ dy_other, float *__restrict__ dw,            \
      float *__restrict__ db, float *__restrict__ parts, unsigned *__restrict__ counters, Conv c, int tiles
#define GIVEN_BACKWARD_W x, x_lines, dy, dy_lines, dy_other, dw, db, parts, counters, c, tiles

template <int OT, int IT, bool TF32, int TAPS>
DEVICE void backward_w(BACKWARD_W) {
  const Finish finish_x = {x_lines, nullptr, c.finish_in_relu != 0}, finish_dy = {dy_lines, dy_other, false};
  weight_gradient<OT, IT, TF32, TAPS>(x, dy, finish_x, finish_dy, dw, db, parts, counters, c, tiles);
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
KERNEL(conv2d_bwd_x_tf32_128x16, 128, BACKWARD_X) { backward_x<128, 16, true, 3>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_tf32_128x32, 128, BACKWARD_X) { backward_x<128, 32, true, 3>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_tf32_128x64, 128, BACKWARD_X) { backward_x<128, 64, true, 3>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_tf32_64x32, 128, BACKWARD_X) { backward_x<64, 32, true, 3>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_tf32_any, 128, BACKWARD_X) { backward_x<64, 32, true, 0>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_fp32_128x16, 128, BACKWARD_X) { backward_x<128, 16, false, 3>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_fp32_128x32, 128, BACKWARD_X) { backward_x<128, 32, false, 3>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_fp32_128x64, 128, BACKWARD_X) { backward_x<128, 64, false, 3>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_fp32_64x32, 128, BACKWARD_X) { backward_x<64, 32, false, 3>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_x_fp32_any, 128, BACKWARD_X) { backward_x<64, 32, false, 0>(GIVEN_BACKWARD_X); }
KERNEL(conv2d_bwd_w_tf32_16x16, 128, BACKWARD_W) { backward_w<16, 16, true, 9>(GIVEN_BACKWARD_W); }
KERNEL(conv2d_bwd_w_tf32_32x32, 128, BACKWARD_W) { backward_w<32, 32, true, 9>(GIVEN_BACKWARD_W); }
KERNEL(conv2d_bwd_w_tf32_64x32, 128, BACKWARD_W) { backward_w<64, 32, true, 9>(GIVEN_BACKWARD_W); }
KERNEL(conv2d_bwd_w_tf32_any, 128, BACKWARD_W) { backward_w<32, 32, true, 1>(GIVEN_BACKWARD_W); }
KERNEL(conv2d_bwd_w_fp32_16x16, 128, BACKWARD_W) { backward_w<16, 16, false, 9>(GIVEN_BACKWARD_W); }
KERNEL(conv2d_bwd_w_fp32_32x32, 128, BACKWARD_W) { backward_w<32, 32, false, 9>(GIVEN_BACKWARD_W); }
KERNEL(conv2d_bwd_w_fp32_any, 128, BACKWARD_W) { backward_w<32, 32, false, 1>(GIVEN_BACKWARD_W); }
