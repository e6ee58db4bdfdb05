// Every promise of pool.h, under hurry and delay. Meetings prove that tasks run at once: nobody goes on alone.
#include "pool.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

// Neither the thread sanitizer nor qemu can follow a child that starts threads after its parent had some.
#if defined(__SANITIZE_THREAD__) || defined(QKV_EMULATED)
#define QKV_NO_FORK 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define QKV_NO_FORK 1
#endif
#endif

namespace {

using std::int64_t;
using std::chrono::microseconds;

// Waits until `count` tasks have come; false when the others do not come in ten seconds.
class Meeting {
  public:
    explicit Meeting(int count) : count_(count) {}
    bool come() {
        ++num_here_;
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (num_here_.load() < count_) {
            if (std::chrono::steady_clock::now() > end) return false;
            std::this_thread::sleep_for(microseconds(20));
        }
        return true;
    }

  private:
    const int count_;
    std::atomic<int> num_here_{0};
};

bool all_meet(int num_threads) {
    Meeting meeting(num_threads);
    std::atomic<int> num_met{0};
    qkv::parallel(num_threads, num_threads, [&](int64_t, int) { num_met += meeting.come(); });
    return num_met.load() == num_threads;
}

// Runs tasks that each write their own place; says whether every place was written once, by a worker that exists
// and had no other task at the time.
bool each_once(int num_threads, int64_t num_tasks) {
    std::vector<int> count(static_cast<std::size_t>(num_tasks > 0 ? num_tasks : 0));
    std::vector<std::atomic<bool>> busy(static_cast<std::size_t>(num_threads > 1 ? num_threads : 1));
    std::atomic<bool> good{true};
    qkv::parallel(num_threads, num_tasks, [&](int64_t task, int worker) {
        if (worker < 0 || worker >= static_cast<int>(busy.size())) {
            good = false;
            return;
        }
        if (busy[static_cast<std::size_t>(worker)].exchange(true)) good = false;
        ++count[static_cast<std::size_t>(task)];
        busy[static_cast<std::size_t>(worker)] = false;
    });
    for (int c : count) good = good && c == 1;
    return good;
}

void threads_are_made_when_they_are_needed() {
    CHECK(qkv::num_pool_threads() == 0);
    CHECK(each_once(1, 100));
    CHECK(each_once(8, 1));
    CHECK(qkv::num_pool_threads() == 0);
    CHECK(each_once(2, 100));
    CHECK(qkv::num_pool_threads() == 1);
    CHECK(each_once(100, 4));  // no more than there are tasks
    CHECK(qkv::num_pool_threads() == 3);
    CHECK(each_once(2, 1000));
    CHECK(qkv::num_pool_threads() == 3);
}

void every_task_is_run_once() {
    for (int num_threads : {-1, 0, 1, 2, 3, 4, 7}) {
        for (int64_t num_tasks : {-5, 0, 1, 2, 3, 17, 1000}) CHECK(each_once(num_threads, num_tasks));
    }
}

void tasks_run_at_once() {
    for (int num_threads : {2, 3, 6}) CHECK(all_meet(num_threads));
}

// A helper that is about to sleep, or asleep, or watching, must not miss a call, and a call never wait for a sleeper.
void calls_come_at_every_moment() {
    std::atomic<int64_t> num_run{0};
    int64_t expected = 0;
    for (int n = 0; n < 600; ++n) {
        const int num_threads = 2 + n % 3, num_tasks = 2 + n % 5;
        qkv::parallel(num_threads, num_tasks, [&](int64_t, int) { ++num_run; });
        expected += num_tasks;
        std::this_thread::sleep_for(microseconds(n % 60));
    }
    CHECK(num_run.load() == expected);
    for (int n = 0; n < 40; ++n) {
        CHECK(all_meet(2 + n % 3));
        std::this_thread::sleep_for(microseconds(3 * n));
    }
}

std::string raised_by(int num_threads, const std::vector<int64_t>& failing, int64_t slow = -1) {
    try {
        qkv::parallel(num_threads, 50, [&](int64_t task, int) {
            for (int64_t f : failing) {
                if (f != task) continue;
                if (task == slow) std::this_thread::sleep_for(microseconds(300));
                throw std::runtime_error("task " + std::to_string(task));
            }
        });
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "nothing";
}

void the_first_task_that_throws_is_told() {
    for (int num_threads : {1, 2, 4}) {
        for (int n = 0; n < 20; ++n) {
            CHECK(raised_by(num_threads, {}) == "nothing");
            CHECK(raised_by(num_threads, {20, 21, 22, 40}, 20) == "task 20");
            CHECK(raised_by(num_threads, {20, 21, 22, 40}, 21) == "task 20");
            CHECK(raised_by(num_threads, {49}) == "task 49");
        }
    }
    // Thrown by a helper: the caller cannot have taken both tasks, for they meet.
    Meeting meeting(2);
    try {
        qkv::parallel(2, 2, [&](int64_t, int worker) {
            meeting.come();
            if (worker == 1) throw std::bad_alloc();
        });
        CHECK(!"raises");
    } catch (const std::bad_alloc&) {
        CHECK(each_once(2, 100));
    }
}

void a_call_from_inside_a_task_is_run_there() {
    for (int num_threads : {1, 3}) {
        std::atomic<int> num_run{0}, num_strange{0};
        qkv::parallel(num_threads, 6, [&](int64_t, int) {
            const std::thread::id here = std::this_thread::get_id();
            int64_t last = -1;
            qkv::parallel(3, 10, [&](int64_t task, int worker) {
                num_strange += std::this_thread::get_id() != here || worker != 0 || task != last + 1;
                last = task;
                ++num_run;
            });
        });
        CHECK(num_run.load() == 60);
        CHECK(num_strange.load() == 0);
    }
    CHECK(all_meet(2));  // and afterwards calls are shared again
}

void callers_do_not_disturb_each_other() {
    std::atomic<int> num_wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&, caller] {
            for (int n = 0; n < 150; ++n) {
                const bool throws = n % 10 == caller;
                std::vector<int64_t> out(40);
                try {
                    qkv::parallel(3, 40, [&](int64_t task, int) {
                        if (throws && task == 30) throw std::runtime_error("30");
                        out[static_cast<std::size_t>(task)] = task * (caller + 1);
                    });
                    num_wrong += throws;
                } catch (const std::runtime_error&) {
                    num_wrong += !throws;
                }
                for (int64_t task = 0; task < (throws ? 30 : 40); ++task) {
                    num_wrong += out[static_cast<std::size_t>(task)] != task * (caller + 1);
                }
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(num_wrong.load() == 0);
}

// While one call has the pool, another is run by its own thread, and does not wait.
void a_second_caller_goes_on_alone() {
    std::atomic<bool> entered{false}, second_done{false};
    std::thread first([&] {
        qkv::parallel(2, 2, [&](int64_t, int) {
            entered = true;
            while (!second_done.load()) std::this_thread::sleep_for(microseconds(20));
        });
    });
    while (!entered.load()) std::this_thread::sleep_for(microseconds(20));
    int num_run = 0;  // not atomic: one thread runs them all
    qkv::parallel(2, 10, [&](int64_t, int worker) { num_run += worker == 0; });
    second_done = true;
    first.join();
    CHECK(num_run == 10);
}

enum class Moment { watching, asleep, busy };

// `pool_test N` is a process that ends while its helpers are at moment N of their lives. It must end at once.
int end_at(Moment moment) {
    if (!all_meet(2)) return 1;
    if (moment == Moment::asleep) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (moment == Moment::busy) {
        static std::atomic<int> num_entered{0};
        std::thread([] {
            qkv::parallel(2, 2, [](int64_t, int) {
                ++num_entered;
                std::this_thread::sleep_for(std::chrono::hours(1));
            });
        }).detach();
        while (num_entered.load() < 2) std::this_thread::sleep_for(microseconds(20));
    }
    return 0;
}

#if defined(__unix__) || defined(__APPLE__)

void helpers_leave_signals_to_the_program() {
    Meeting meeting(2);
    std::atomic<int> num_open{0}, num_faults_open{0};
    qkv::parallel(2, 2, [&](int64_t, int worker) {
        meeting.come();
        sigset_t blocked;
        pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
        num_faults_open += !sigismember(&blocked, SIGSEGV);
        if (worker == 1) num_open += !sigismember(&blocked, SIGINT);
    });
    CHECK(num_open.load() == 0);
    CHECK(num_faults_open.load() == 2);
}

#if defined(QKV_NO_FORK)

void a_forked_child_begins_anew() { std::printf("pool_test: children are not forked under a thread sanitizer or an emulator\n"); }

#else

// What a forked child finds, as its exit status; 0 is good.
int child() {
    if (qkv::num_pool_threads() != 0) return 1;
    if (!each_once(3, 200)) return 2;
    if (!all_meet(3)) return 3;
    const pid_t grandchild = fork();
    if (grandchild == 0) _exit(qkv::num_pool_threads() == 0 && all_meet(2) ? 0 : 1);
    int status = -1;
    waitpid(grandchild, &status, 0);
    return status == 0 ? 0 : 4;
}

void a_forked_child_begins_anew() {
    CHECK(all_meet(2));
    std::atomic<bool> stop{false};
    // In half of the forks another thread is in the middle of a call.
    std::thread other([&] {
        while (!stop.load()) each_once(2, 50);
    });
    for (int n = 0; n < 10; ++n) {
        if (n == 5) {
            stop = true;
            other.join();
        }
        const pid_t pid = fork();
        if (pid == 0) _exit(child());
        int status = -1;
        waitpid(pid, &status, 0);
        CHECK(status == 0);
        CHECK(each_once(2, 50));
    }
    CHECK(all_meet(2));
}

#endif

#endif

// A team as OpenMP's: as many threads as are asked for, the caller's own among them.
std::atomic<int> num_teams{0};

void team_of_threads(void (*run)(void*), void* with, unsigned width, unsigned) {
    ++num_teams;
    std::vector<std::thread> others;
    for (unsigned n = 1; n < width; ++n) others.emplace_back(run, with);
    run(with);
    for (std::thread& other : others) other.join();
}

// As an OpenMP runtime does where it has no threads to give.
void team_of_one(void (*run)(void*), void* with, unsigned, unsigned) {
    ++num_teams;
    run(with);
}

void a_team_is_ridden() {
    const int own = qkv::num_pool_threads();
    qkv::ride(&team_of_threads);
    CHECK(qkv::rides());
    every_task_is_run_once();
    tasks_run_at_once();
    the_first_task_that_throws_is_told();
    a_call_from_inside_a_task_is_run_there();
    callers_do_not_disturb_each_other();
    CHECK(num_teams.exchange(0) > 0);
    CHECK(each_once(1, 10) && each_once(5, 1));
    CHECK(num_teams.load() == 0);  // for nobody else
    qkv::ride(&team_of_one);
    every_task_is_run_once();
    CHECK(raised_by(4, {20, 21}) == "task 20");
    CHECK(num_teams.exchange(0) > 0);
    CHECK(qkv::num_pool_threads() == own);
    qkv::ride(nullptr);
    CHECK(!qkv::rides());
    CHECK(each_once(3, 200) && num_teams.load() == 0);
}

#if (defined(__unix__) || defined(__APPLE__)) && !defined(QKV_NO_FORK)
void a_forked_child_rides_nothing() {
    qkv::ride(&team_of_threads);
    const pid_t pid = fork();
    if (pid == 0) {
        if (qkv::rides()) _exit(1);
        qkv::ride(&team_of_threads);
        _exit(!qkv::rides() && all_meet(3) && num_teams.load() == 0 ? 0 : 2);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK(status == 0);
    CHECK(qkv::rides());
    qkv::ride(nullptr);
}
#endif

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1) return end_at(static_cast<Moment>(std::atoi(argv[1])));
    threads_are_made_when_they_are_needed();
    every_task_is_run_once();
    tasks_run_at_once();
    calls_come_at_every_moment();
    the_first_task_that_throws_is_told();
    a_call_from_inside_a_task_is_run_there();
    callers_do_not_disturb_each_other();
    a_second_caller_goes_on_alone();
    a_team_is_ridden();
#if defined(__unix__) || defined(__APPLE__)
    helpers_leave_signals_to_the_program();
    a_forked_child_begins_anew();
#if !defined(QKV_NO_FORK)
    a_forked_child_rides_nothing();
#endif
#endif
    return qkv::test::report("pool_test");
}
