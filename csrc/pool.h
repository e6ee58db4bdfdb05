// One small pool of threads for the whole process: a number of tasks is run by the caller and by those that help it.
//
// Knows threads, and nothing of what they run. It promises that every task has been run once when the call returns,
// not by whom: which thread gets a task, and how many took part, differs from call to call. That results do not
// depend on it is the duty of the tasks: each writes what no other writes, and sums across tasks are taken
// afterwards, in their order.
#pragma once

#include <cstdint>

namespace qkv {

// `worker` is below num_threads of the call (0 where that is smaller than 1), and no two tasks of one call that run
// at the same time have the same: it picks a task's scratch memory.
using Task = void (*)(void* context, std::int64_t task, int worker);

// Runs task 0 to num_tasks - 1, in any order, on at most num_threads threads, the caller's own among them, and
// returns when all have been run. What they wrote is visible then.
//
// Threads are made when they are first needed, and stay: between calls they watch for a few microseconds, then they
// sleep. Where the system gives no more of them, those that are there do the work.
// From several threads at once: the first call has the pool, the others run their tasks themselves. From inside a
// task: the tasks run one after the other, there. In a forked child: the pool begins anew; a task must not fork.
// A task that throws: tasks not yet begun are left out, those begun are waited for, and of all that threw the one
// with the lowest number is rethrown, which is the same for any number of threads.
void parallel(int num_threads, std::int64_t num_tasks, Task task, void* context);

// The same for a function of (task, worker).
template <class Function>
void parallel(int num_threads, std::int64_t num_tasks, const Function& function) {
    const Task task = [](void* context, std::int64_t number, int worker) {
        (*static_cast<const Function*>(context))(number, worker);
    };
    parallel(num_threads, num_tasks, task, const_cast<Function*>(&function));
}

// Threads that the pool has made in this process, the callers' own not counted.
int num_pool_threads();

// A team of threads that somebody else keeps: run(with) is called once on each of at most `width` threads, the caller's
// own among them, and the function returns when all have returned. GCC's GOMP_parallel is one.
using Team = void (*)(void (*run)(void*), void* with, unsigned width, unsigned flags);

// From now on tasks are run by this team, or by the pool's own threads again where it is nullptr: where a library that
// computes between our calls keeps threads that watch for a while, two teams would take the processors from each
// other. A forked child has threads of its own, whatever is asked there: the team's were left behind.
void ride(Team team);

// Whether a team is ridden in this process.
bool rides();

}  // namespace qkv
