// Memory for what a kernel makes and uses up itself, kept by each thread from one call to the next: a system gives large
// pieces of memory as pages that must be cleared first, every time.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace {

struct Kept {
    std::unique_ptr<char[]> memory;
    size_t size = 0, used = 0, wanted = 0, most = 0;
};
inline Kept& kept() {
    static thread_local Kept of_thread;
    return of_thread;
}

// Numbers that are not set to anything at first. Pieces are given back in the reverse order.
template <class T>
class Scratch {
    size_t bytes;
    std::unique_ptr<char[]> own;  // of what does not fit; the next call finds enough
    T* at;

   public:
    explicit Scratch(int64_t count) : bytes((count * sizeof(T) + 127) / 64 * 64) {
        Kept& all = kept();
        if (all.wanted == 0 && all.most > all.size) all.memory.reset(new char[all.size = all.most]);
        all.wanted += bytes;
        all.most = std::max(all.most, all.wanted);
        char* memory = all.memory.get() + all.used;
#ifdef __SANITIZE_ADDRESS__
        constexpr bool shared = false;  // pieces apart, so that one that is left is noticed
#else
        constexpr bool shared = true;
#endif
        if (shared && all.used + bytes <= all.size)
            all.used += bytes;
        else
            own.reset(memory = new char[bytes]);
        at = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
    }
    ~Scratch() {
        kept().wanted -= bytes;
        if (!own) kept().used -= bytes;
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    operator T*() const { return at; }
};

}  // namespace
