// Numbers that are read and written several at once.
#pragma once
#include "common.cuh"

template <int V>
struct alignas(4 * V) Pack {
  float at[V];
};

template <int V>
DEVICE Pack<V> load(const float* from) {
  return *reinterpret_cast<const Pack<V>*>(from);
}

template <int V>
DEVICE void store(float* to, const Pack<V>& pack) {
  *reinterpret_cast<Pack<V>*>(to) = pack;
}

template <int V>
struct Width {
  static constexpr int VALUE = V;
};

// Do all of them lie at 16 bytes?
template <class... T>
DEVICE bool at_16_bytes(const T*... x) {
  return ((reinterpret_cast<uintptr_t>(x) % 16 == 0) && ...);
}

// Calls pack(Width<V>, i) for all elements i .. i + V of n: V = 4 where `fours`, and 1 for those that are left.
template <class Pack>
DEVICE void each_pack(bool fours, long long n, Pack pack) {
  const long long packs = fours ? n / 4 : 0;
  for (long long i = grid_thread(); i < packs; i += grid_threads()) pack(Width<4>(), 4 * i);
  for (long long i = 4 * packs + grid_thread(); i < n; i += grid_threads()) pack(Width<1>(), i);
}
