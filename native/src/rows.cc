// Sorts of the rows of a matrix for XLA on a CPU, by Highway's VQSort, on XLA's own threads.
//
// A float is sorted as an integer of the same order, and with its column in the low half of one
// 64-bit integer where a permutation is wanted, which makes the sort stable. -0.0 counts as 0.0, and
// NaN goes to an end of its row.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "hwy/contrib/sort/vqsort.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

using Floats = ffi::Buffer<ffi::F32>;
using Columns = ffi::Buffer<ffi::S32>;
using Integers = ffi::Buffer<ffi::S64>;
template <typename Buffer>
using Out = ffi::Result<Buffer>;

// Entries below which one thread is faster than several.
constexpr std::size_t kEntriesOfThread = 8192;
constexpr std::int32_t kAllButSign = 0x7fffffff;

std::int32_t OrderedInteger(float value) {
  value = value == 0.0f ? 0.0f : value;
  std::int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits ^ ((bits >> 31) & kAllButSign);
}

float FloatOf(std::int32_t integer) {
  integer ^= (integer >> 31) & kAllButSign;
  float value;
  std::memcpy(&value, &integer, sizeof value);
  return value;
}

struct Shape {
  std::size_t rows, columns;
};

template <typename Buffer>
Shape ShapeOf(const Buffer& buffer) {
  const auto dimensions = buffer.dimensions();
  const std::size_t columns = dimensions.size() == 0 ? 1 : dimensions.back();
  return {columns == 0 ? 0 : buffer.element_count() / columns, columns};
}

// Row counters outlive the call: a thread may start after all rows have been taken.
struct Progress {
  std::atomic<std::size_t> taken{0};
  std::atomic<std::size_t> done{0};
};

// Calls body(row) for each row. The calling thread works too, so a pool without free threads delays
// nothing.
template <typename Body>
void ForEachRow(ffi::ThreadPool& pool, Shape shape, const Body& body) {
  const std::size_t entries = shape.rows * shape.columns;
  const std::size_t useful = std::min(shape.rows, entries / kEntriesOfThread + 1);
  const std::size_t threads = std::min<std::size_t>(useful, std::max<int64_t>(pool.num_threads(), 1));
  if (threads <= 1) {
    for (std::size_t row = 0; row < shape.rows; ++row) body(row);
    return;
  }
  const std::size_t chunk =
      std::max<std::size_t>(1, std::min(shape.rows / (4 * threads),
                                        kEntriesOfThread / std::max<std::size_t>(shape.columns, 1)));
  auto progress = std::make_shared<Progress>();
  auto work = [progress, &body, rows = shape.rows, chunk] {
    for (;;) {
      const std::size_t first = progress->taken.fetch_add(chunk);
      if (first >= rows) return;
      const std::size_t last = std::min(first + chunk, rows);
      for (std::size_t row = first; row < last; ++row) body(row);
      if (progress->done.fetch_add(last - first) + last - first == rows) progress->done.notify_one();
    }
  };
  for (std::size_t thread = 1; thread < threads; ++thread) pool.Schedule(decltype(work)(work));
  work();
  for (std::size_t done; (done = progress->done.load()) < shape.rows;) progress->done.wait(done);
}

template <typename Integer>
void SortIntegers(Integer* keys, std::size_t count) {
  hwy::VQSort(keys, count, hwy::SortAscending());
}

// Returns room for `count` integers, the same at each call of a thread.
template <typename Integer>
Integer* Scratch(std::size_t count) {
  thread_local std::vector<Integer> memory;
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

std::int64_t* SortedPairs(const float* values, std::size_t count) {
  auto* pairs = Scratch<std::int64_t>(count);
  for (std::size_t column = 0; column < count; ++column) {
    const auto key = static_cast<std::uint32_t>(OrderedInteger(values[column]));
    pairs[column] = static_cast<std::int64_t>((static_cast<std::uint64_t>(key) << 32) | column);
  }
  SortIntegers(pairs, count);
  return pairs;
}

float ValueOf(std::int64_t pair) { return FloatOf(static_cast<std::int32_t>(pair >> 32)); }

std::int32_t ColumnOf(std::int64_t pair) { return static_cast<std::int32_t>(pair); }

void ToIntegers(const float* values, std::int32_t* integers, std::size_t count) {
  for (std::size_t column = 0; column < count; ++column) integers[column] = OrderedInteger(values[column]);
}

ffi::Error Sort(ffi::ThreadPool pool, Floats values, Out<Floats> ordered) {
  const Shape shape = ShapeOf(values);
  const float* in = values.typed_data();
  float* out = ordered->typed_data();
  ForEachRow(pool, shape, [=](std::size_t row) {
    float* own = out + row * shape.columns;
    auto* keys = Scratch<std::int32_t>(shape.columns);
    ToIntegers(in + row * shape.columns, keys, shape.columns);
    SortIntegers(keys, shape.columns);
    for (std::size_t column = 0; column < shape.columns; ++column) own[column] = FloatOf(keys[column]);
  });
  return ffi::Error::Success();
}

ffi::Error SortIntegerRows(ffi::ThreadPool pool, Integers keys, Out<Integers> ordered) {
  const Shape shape = ShapeOf(keys);
  const std::int64_t* in = keys.typed_data();
  std::int64_t* out = ordered->typed_data();
  ForEachRow(pool, shape, [=](std::size_t row) {
    std::int64_t* own = out + row * shape.columns;
    std::copy_n(in + row * shape.columns, shape.columns, own);
    SortIntegers(own, shape.columns);
  });
  return ffi::Error::Success();
}

ffi::Error SortWithPermutation(ffi::ThreadPool pool, Floats values, Out<Floats> ordered,
                               Out<Columns> permutation) {
  const Shape shape = ShapeOf(values);
  const float* in = values.typed_data();
  float* out = ordered->typed_data();
  std::int32_t* columns = permutation->typed_data();
  ForEachRow(pool, shape, [=](std::size_t row) {
    const std::size_t start = row * shape.columns;
    const std::int64_t* pairs = SortedPairs(in + start, shape.columns);
    for (std::size_t place = 0; place < shape.columns; ++place) {
      out[start + place] = ValueOf(pairs[place]);
      columns[start + place] = ColumnOf(pairs[place]);
    }
  });
  return ffi::Error::Success();
}

// Merges two sorted rows of `half` integers from both ends, so that no bound needs a check.
void Merge(const std::int32_t* one, const std::int32_t* other, std::size_t half, std::int32_t* merged) {
  std::size_t first = 0, second = 0, first_left = half, second_left = half;
  for (std::size_t place = 0; place < half; ++place) {
    const bool takes_second = other[second] < one[first];
    merged[place] = takes_second ? other[second] : one[first];
    second += takes_second;
    first += !takes_second;
    const bool takes_first = one[first_left - 1] > other[second_left - 1];
    merged[2 * half - 1 - place] = takes_first ? one[first_left - 1] : other[second_left - 1];
    first_left -= takes_first;
    second_left -= !takes_first;
  }
}

ffi::Error Unsort(ffi::ThreadPool pool, Floats ordered, Columns permutation, Out<Floats> values) {
  const Shape shape = ShapeOf(ordered);
  const float* in = ordered.typed_data();
  const std::int32_t* columns = permutation.typed_data();
  float* out = values->typed_data();
  ForEachRow(pool, shape, [=](std::size_t row) {
    const std::size_t start = row * shape.columns;
    for (std::size_t place = 0; place < shape.columns; ++place) {
      out[start + columns[start + place]] = in[start + place];
    }
  });
  return ffi::Error::Success();
}

// Differences of each entry of u from the entry of v that has its rank, at the column of u.
ffi::Error Differences(ffi::ThreadPool pool, Floats u, Floats v, Out<Floats> differences) {
  const Shape shape = ShapeOf(u);
  const float *of_u = u.typed_data(), *of_v = v.typed_data();
  float* out = differences->typed_data();
  ForEachRow(pool, shape, [=](std::size_t row) {
    const std::size_t start = row * shape.columns;
    auto* partners = Scratch<std::int32_t>(shape.columns);
    ToIntegers(of_v + start, partners, shape.columns);
    SortIntegers(partners, shape.columns);
    const std::int64_t* pairs = SortedPairs(of_u + start, shape.columns);
    for (std::size_t place = 0; place < shape.columns; ++place) {
      out[start + ColumnOf(pairs[place])] = ValueOf(pairs[place]) - FloatOf(partners[place]);
    }
  });
  return ffi::Error::Success();
}

// The same differences, and those within two halves of n / 2 columns. The last column of an odd n is
// in neither half and has the difference 0 there.
ffi::Error DifferencesWithHalves(ffi::ThreadPool pool, Floats u, Floats v, Out<Floats> differences,
                                 Out<Floats> of_halves) {
  const Shape shape = ShapeOf(u);
  const std::size_t count = shape.columns, half = count / 2;
  const float *of_u = u.typed_data(), *of_v = v.typed_data();
  float *out = differences->typed_data(), *out_of_halves = of_halves->typed_data();
  ForEachRow(pool, shape, [=](std::size_t row) {
    const std::size_t start = row * count;
    auto* halves = Scratch<std::int32_t>(2 * count);
    auto* partners = halves + count;
    ToIntegers(of_v + start, halves, count);
    if (count % 2) {
      std::copy_n(halves, count, partners);
      SortIntegers(partners, count);
    }
    SortIntegers(halves, half);
    SortIntegers(halves + half, half);
    if (count % 2 == 0) Merge(halves, halves + half, half, partners);
    const std::int64_t* pairs = SortedPairs(of_u + start, count);
    std::size_t next[2] = {0, half};
    for (std::size_t place = 0; place < count; ++place) {
      const float value = ValueOf(pairs[place]);
      const std::size_t column = ColumnOf(pairs[place]);
      out[start + column] = value - FloatOf(partners[place]);
      if (column == 2 * half) {
        out_of_halves[start + column] = 0.0f;
      } else {
        out_of_halves[start + column] = value - FloatOf(halves[next[column >= half]++]);
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(SwjkoSort, Sort,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(SwjkoSortIntegers, SortIntegerRows,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Integers>().Ret<Integers>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SwjkoSortWithPermutation, SortWithPermutation,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Ret<Floats>().Ret<Columns>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SwjkoUnsort, Unsort,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Columns>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SwjkoDifferences, Differences,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SwjkoDifferencesWithHalves, DifferencesWithHalves,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>().Ret<Floats>());
