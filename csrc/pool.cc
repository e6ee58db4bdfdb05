// How tasks are handed out, and how threads that wait for them watch, sleep and are woken.
#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "cpu.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#define QKV_POSIX 1
#endif

namespace qkv {
namespace {

using Clock = std::chrono::steady_clock;

// More than any machine has: a wrong number must not ask the system for a million threads.
constexpr int max_width = 1024;
constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();

// Whether this thread is running a task: a call from there must not wait for the pool, of which it is a part.
thread_local bool inside_task = false;

class InsideTask {
  public:
    InsideTask() : before_(inside_task) { inside_task = true; }
    ~InsideTask() { inside_task = before_; }
    InsideTask(const InsideTask&) = delete;
    InsideTask& operator=(const InsideTask&) = delete;

  private:
    bool before_;
};

void rest_a_moment() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#else
    std::this_thread::yield();
#endif
}

// Waits for `done` without sleeping, at most so long; says whether it came.
template <class Done>
bool watch(std::chrono::nanoseconds longest, const Done& done) {
    if (done()) return true;
    if (longest.count() == 0) return false;
    const Clock::time_point end = Clock::now() + longest;
    do {
        for (int n = 0; n < 16; ++n) {
            rest_a_moment();
            if (done()) return true;
        }
    } while (Clock::now() < end);
    return false;
}

// A thread takes the signals that are open where it is made. Those of the process belong to the program's own threads.
class SignalsHeldBack {
  public:
#if defined(QKV_POSIX)
    SignalsHeldBack() {
        sigset_t all;
        sigfillset(&all);
        for (int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGPROF}) sigdelset(&all, own);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~SignalsHeldBack() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
#else
    SignalsHeldBack() {}
#endif
};

// One call's tasks. Written by the caller while no helper can be inside.
struct Job {
    Task task = nullptr;
    void* context = nullptr;
    std::int64_t num_tasks = 0;
    alignas(64) std::atomic<std::int64_t> next{0};
    std::atomic<std::int64_t> failed_task{none};  // the lowest that threw
    std::mutex failure_mutex;
    std::exception_ptr failure;

    void begin(std::int64_t count, Task function, void* with) {
        task = function;
        context = with;
        num_tasks = count;
        next.store(0, std::memory_order_relaxed);
        failed_task.store(none, std::memory_order_relaxed);
    }

    void work(int worker) {
        const InsideTask inside;
        for (;;) {
            const std::int64_t number = next.fetch_add(1, std::memory_order_relaxed);
            // Numbers rise, so every task below one that threw has been begun and will have its say.
            if (number >= num_tasks || number > failed_task.load(std::memory_order_relaxed)) return;
            try {
                task(context, number, worker);
            } catch (...) {
                const std::lock_guard lock(failure_mutex);
                if (number < failed_task.load(std::memory_order_relaxed)) {
                    failed_task.store(number, std::memory_order_relaxed);
                    failure = std::current_exception();
                }
            }
        }
    }
};

// The team that runs tasks instead of the pool's own threads.
std::atomic<Team> ridden{nullptr};
std::atomic<bool> is_forked{false};

class Pool {
  public:
    Pool(const Pool* before_fork) : before_fork_(before_fork), num_processors_(cpu_sizes().num_threads) {}

    // False, and nothing was run, if another call has the pool.
    bool run(int width, std::int64_t num_tasks, Task task, void* context) {
        if (taken_.test_and_set(std::memory_order_acquire)) return false;
        job_.begin(num_tasks, task, context);
        if (const Team team = ridden.load(std::memory_order_acquire)) {
            num_riders_.store(0, std::memory_order_relaxed);
            team(&Pool::enter, this, static_cast<unsigned>(width), 0);
        } else {
            work_with_own(width);
        }
        std::exception_ptr failure = std::exchange(job_.failure, nullptr);
        taken_.clear(std::memory_order_release);
        if (failure) std::rethrow_exception(std::move(failure));
        return true;
    }

    int num_threads() const { return num_threads_.load(std::memory_order_relaxed); }

  private:
    // One of a team's threads, which numbers itself.
    static void enter(void* pool) {
        auto* self = static_cast<Pool*>(pool);
        self->job_.work(self->num_riders_.fetch_add(1, std::memory_order_relaxed));
    }

    void work_with_own(int width) {
        num_left_.store(0, std::memory_order_relaxed);
        watching_ns_.store(watching(width).count(), std::memory_order_relaxed);
        open(width - 1);
        grow(width - 1);
        job_.work(0);
        wait_for(close(width - 1));
    }

    // How long to watch before sleeping: not at all where watching would take the processor from who is waited for.
    std::chrono::nanoseconds watching(int width) const {
        if (width > num_processors_) return std::chrono::microseconds(0);
        return std::chrono::microseconds(num_processors_ <= 4 ? 15 : 40);
    }

    void open(int num_seats) {
        num_seats_.store(num_seats);
        // A helper counts itself as asleep before it looks a last time: either it sees the seats, or we see it.
        const int num_asleep = num_asleep_.load();
        if (num_asleep == 0) return;
        { const std::lock_guard lock(mutex_); }  // whoever has looked and found nothing is asleep now
        if (num_seats >= num_asleep) {
            seats_open_.notify_all();
        } else {
            for (int n = 0; n < num_seats; ++n) seats_open_.notify_one();
        }
    }

    void grow(int num_threads) {
        int count = num_threads_.load(std::memory_order_relaxed);
        if (count >= num_threads) return;
        const SignalsHeldBack held_back;
        try {
            for (; count < num_threads; ++count) {
                std::thread([this] { help(); }).detach();
                num_threads_.store(count + 1, std::memory_order_relaxed);
            }
        } catch (const std::system_error&) {
            // The system has no more threads to give: the tasks are run by fewer, with the same results.
        } catch (const std::bad_alloc&) {
        }
    }

    // How many helpers took a seat; none can take one any more.
    int close(int num_seats) { return num_seats - num_seats_.exchange(0); }

    void wait_for(int num_inside) {
        const auto all_left = [&] { return num_left_.load() == num_inside; };
        if (watch(std::chrono::nanoseconds(watching_ns_.load(std::memory_order_relaxed)), all_left)) return;
        std::unique_lock lock(mutex_);
        caller_sleeps_.store(true);
        left_.wait(lock, all_left);
        caller_sleeps_.store(false);
    }

    // The life of a helper: it never ends, and a process that ends does not wait for it.
    void help() {
        for (;;) {
            int seat = num_seats_.load();
            if (seat > 0) {
                // Seat n is worker n: they are counted downwards, and 0 is the caller. If this call has ended
                // meanwhile and the next has as many seats, it is one of those that is taken, which is as good.
                if (num_seats_.compare_exchange_weak(seat, seat - 1)) {
                    job_.work(seat);
                    leave();
                }
                continue;
            }
            const auto is_open = [this] { return num_seats_.load() > 0; };
            const std::chrono::nanoseconds longest(watching_ns_.load(std::memory_order_relaxed));
            if (watch(longest, is_open)) continue;
            std::unique_lock lock(mutex_);
            num_asleep_.fetch_add(1);
            seats_open_.wait(lock, is_open);
            num_asleep_.fetch_sub(1);
        }
    }

    // After the count is raised the caller may go, and the job be another's; the pool itself stays.
    void leave() {
        num_left_.fetch_add(1);
        if (!caller_sleeps_.load()) return;
        { const std::lock_guard lock(mutex_); }
        left_.notify_one();
    }

    [[maybe_unused]] const Pool* const before_fork_;  // kept findable, so that no leak is reported in a child
    const int num_processors_;
    std::atomic<int> num_threads_{0};
    std::atomic_flag taken_;
    std::atomic<std::int64_t> watching_ns_{0};
    std::mutex mutex_;
    std::condition_variable seats_open_, left_;
    Job job_;
    std::atomic<int> num_riders_{0};
    alignas(64) std::atomic<int> num_seats_{0};  // that helpers may still take; who has taken one is inside
    alignas(64) std::atomic<int> num_left_{0};
    std::atomic<int> num_asleep_{0};
    std::atomic<bool> caller_sleeps_{false};
};

// Never destroyed: its threads use it until the process is gone.
std::atomic<Pool*> current{nullptr};
std::atomic<Pool*> before_fork{nullptr};

#if defined(QKV_POSIX)
// Only the thread that forked lives on in the child, and what the others held stays held: leave that pool alone.
void after_fork_in_child() {
    is_forked.store(true);
    ridden.store(nullptr);
    if (Pool* pool = current.exchange(nullptr)) before_fork.store(pool);
}

const int atfork_error = pthread_atfork(nullptr, nullptr, &after_fork_in_child);
#else
constexpr int atfork_error = 0;
#endif

Pool& the_pool() {
    if (Pool* pool = current.load(std::memory_order_acquire)) return *pool;
    if (atfork_error != 0) throw std::system_error(atfork_error, std::generic_category(), "pthread_atfork");
    Pool* made = new Pool(before_fork.load());
    Pool* found = nullptr;
    if (current.compare_exchange_strong(found, made)) return *made;
    delete made;  // another thread was faster; this one has no threads yet
    return *found;
}

void run_alone(std::int64_t num_tasks, Task task, void* context) {
    const InsideTask inside;
    for (std::int64_t number = 0; number < num_tasks; ++number) task(context, number, 0);
}

}  // namespace

void parallel(int num_threads, std::int64_t num_tasks, Task task, void* context) {
    const auto width = static_cast<int>(std::min<std::int64_t>({num_threads, num_tasks, max_width}));
    const bool shared = width > 1 && !inside_task && the_pool().run(width, num_tasks, task, context);
    if (!shared) run_alone(num_tasks, task, context);
}

void ride(Team team) { ridden.store(is_forked.load() ? nullptr : team, std::memory_order_release); }

bool rides() { return ridden.load(std::memory_order_acquire) != nullptr; }

int num_pool_threads() {
    const Pool* pool = current.load(std::memory_order_acquire);
    return pool == nullptr ? 0 : pool->num_threads();
}

}  // namespace qkv
