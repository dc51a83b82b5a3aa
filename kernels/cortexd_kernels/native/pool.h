// Threads that share the pieces of one piece of work after another.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// A work of n pieces is announced by one number, the ticket: which work it is, n, and the next piece to be taken. Whoever takes a
// piece adds one to it. The work is done when n pieces are, not when all threads have come by, so that a thread which the system
// has put to sleep delays nobody unless it sleeps on a piece. Threads spin between works, and sleep when no call is under way.
class Pool {
public:
    static constexpr int most_threads = 256;

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ended_ = true;
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    // One call at a time, from `begin` to `end`, by this many threads, the caller among them.
    void begin(int threads) {
        calls_.lock();
        threads = threads < 1 ? 1 : threads > most_threads ? most_threads : threads;
        while ((int)threads_.size() < threads - 1) threads_.emplace_back(&Pool::help, this, (int)threads_.size() + 1);
        std::lock_guard<std::mutex> lock(mutex_);
        active_.store(threads);
        if (sleeping_ > 0 && threads > 1) wake_.notify_all();
    }

    void end() {
        active_.store(0);
        calls_.unlock();
    }

    int threads() const { return active_.load(std::memory_order_relaxed); }

    // work(piece) for each piece from 0 to pieces; returns when all are done.
    template <class Work>
    void run(int pieces, Work&& work) {
        if (pieces <= 1 || threads() <= 1) {
            for (int piece = 0; piece < pieces; piece++) work(piece);
            return;
        }
        call_ = [](void* context, int piece) { (*static_cast<std::remove_reference_t<Work>*>(context))(piece); };
        context_ = &work;
        done_.store(0, std::memory_order_relaxed);
        number_++;
        ticket_.store(number_ << 40 | (uint64_t)pieces << 20, std::memory_order_release);
        take();
        for (int spins = 0; done_.load(std::memory_order_acquire) < pieces; spins++) relax(spins);
    }

private:
    static constexpr uint64_t piece_bits = (1 << 20) - 1;
    static constexpr int spins_before_yielding = 2000;
    static constexpr int spins_before_sleeping = 4000;

    static bool has_pieces(uint64_t ticket) { return (ticket & piece_bits) < (ticket >> 20 & piece_bits); }

    static void relax(int spins) {
        if (spins > spins_before_yielding) {
            std::this_thread::yield();  // more threads than cores: the one we wait for needs ours
            return;
        }
#if defined(__x86_64__)
        _mm_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    void take() {
        while (has_pieces(ticket_.load(std::memory_order_acquire))) {
            const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
            if (!has_pieces(ticket)) return;
            call_(context_, (int)(ticket & piece_bits));  // stays as it is until this piece is done
            done_.fetch_add(1, std::memory_order_release);
        }
    }

    void help(int thread) {
        for (int spins = 0;; spins++) {
            const int active = active_.load(std::memory_order_relaxed);
            if (thread < active && has_pieces(ticket_.load(std::memory_order_relaxed))) {
                take();
                spins = 0;
            } else if (spins > spins_before_sleeping && thread >= active) {
                std::unique_lock<std::mutex> lock(mutex_);
                sleeping_++;
                wake_.wait(lock, [&] { return ended_ || thread < active_.load(); });
                sleeping_--;
                if (ended_) return;
                spins = 0;
            } else {
                relax(spins);
            }
        }
    }

    std::atomic<uint64_t> ticket_{0};  // number of the work 24 bits, pieces 20, next piece 20
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<int> active_{0};
    void (*call_)(void*, int) = nullptr;
    void* context_ = nullptr;
    uint64_t number_ = 0;
    std::mutex calls_, mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> threads_;
    int sleeping_ = 0;
    bool ended_ = false;
};

}  // namespace
