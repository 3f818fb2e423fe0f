/* A pool of sleeping threads that shares out the tasks of one parallel_for at a time.
 *
 * One atomic word, the gate, holds the number of the job (odd while it is open, even between jobs) and how many threads
 * are inside it. A thread may enter only an open job, once; the caller closes the gate when every task is claimed and
 * waits for the threads inside. A thread that wakes late finds the gate closed and goes back to sleep, so a short job
 * never waits for it. */
#define _GNU_SOURCE
#include "onnxc_support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

/* Looks at the gate this often before sleeping: some microseconds, about what a wake-up costs. */
#define SPINS 400

/* The same while somebody holds the pool awake, which a run does: some milliseconds, for a wake-up after each kernel
 * that is not shared out costs more than the kernel. Nothing spins between runs. */
#define SPINS_HELD 100000

#define INSIDE_MASK ((uint64_t)0xffff)
#define JOB_STEP ((uint64_t)0x10000)

/* The tasks that a worker has of its own, on a line of their own: every claim writes it. */
struct share {
    _Alignas(64) _Atomic int64_t next;
    int64_t end;
};

struct worker {
    onnxc_pool *pool;
    pthread_t thread;
    int number;
};

struct onnxc_pool {
    _Alignas(64) _Atomic uint64_t gate;
    _Alignas(64) _Atomic int sleepers;
    _Atomic int holders;
    atomic_flag busy;
    _Atomic bool stop;
    /* The job: written only while the gate is closed and nobody is inside. */
    onnxc_task_fn fn;
    void *arg;
    struct share *shares;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_cond_t done;
    int workers;
    int started;
    struct worker *threads;
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

static bool is_open(uint64_t gate) {
    return (gate / JOB_STEP) % 2 == 1;
}

/* Neighbouring tasks are one worker's, the same ones in every job of as many tasks: what a kernel wrote is then in the
 * cache of the core that reads it in the next. */
static void share_out(onnxc_pool *pool, int64_t tasks) {
    const int64_t each = tasks / pool->workers, more = tasks % pool->workers;
    int64_t begin = 0;
    int worker;
    for (worker = 0; worker < pool->workers; worker++) {
        struct share *const share = &pool->shares[worker];
        share->end = begin + each + (worker < more);
        atomic_store_explicit(&share->next, begin, memory_order_relaxed);
        begin = share->end;
    }
}

/* Runs what is left of the worker's own share, then what is left of the others', which may never wake. */
static void work(onnxc_pool *pool, int worker) {
    const onnxc_task_fn fn = pool->fn;
    void *const arg = pool->arg;
    int past;
    for (past = 0; past < pool->workers; past++) {
        struct share *const share = &pool->shares[(worker + past) % pool->workers];
        while (atomic_load_explicit(&share->next, memory_order_relaxed) < share->end) {
            const int64_t task = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed);
            if (task < share->end) {
                fn(arg, task, worker);
            }
        }
    }
}

/* Whether a job is open that this thread, which was in job `seen` last, has not been in. */
static bool is_news(uint64_t gate, uint64_t seen) {
    return is_open(gate) && gate / JOB_STEP != seen;
}

static bool is_held(onnxc_pool *pool) {
    return atomic_load_explicit(&pool->holders, memory_order_relaxed) > 0;
}

/* Sleeps until there is a new job or the pool stops. The sleeper counts itself before it looks at the gate, and the
 * caller opens the gate before it looks at the count: one of the two sees the other. */
static void sleep_until_news(onnxc_pool *pool, uint64_t seen) {
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!is_news(atomic_load(&pool->gate), seen) && !atomic_load(&pool->stop)) {
        pthread_cond_wait(&pool->wake, &pool->lock);
    }
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *thread_main(void *arg) {
    struct worker *const self = arg;
    onnxc_pool *const pool = self->pool;
    uint64_t seen = 0;
    while (!atomic_load_explicit(&pool->stop, memory_order_relaxed)) {
        uint64_t gate = 0;
        int spin;
        for (spin = 0; spin < SPINS || (spin < SPINS_HELD && is_held(pool)); spin++) {
            gate = atomic_load_explicit(&pool->gate, memory_order_relaxed);
            if (is_news(gate, seen)) {
                break;
            }
            relax();
        }
        if (!is_news(gate, seen)) {
            sleep_until_news(pool, seen);
            gate = atomic_load_explicit(&pool->gate, memory_order_relaxed);
        }
        while (is_news(gate, seen)) {
            if (atomic_compare_exchange_weak_explicit(&pool->gate, &gate, gate + 1, memory_order_acquire,
                                                      memory_order_relaxed)) {
                seen = gate / JOB_STEP;
                work(pool, self->number);
                gate = atomic_fetch_sub_explicit(&pool->gate, 1, memory_order_acq_rel);
                if (!is_open(gate) && (gate & INSIDE_MASK) == 1) {
                    pthread_mutex_lock(&pool->lock);
                    pthread_cond_signal(&pool->done);
                    pthread_mutex_unlock(&pool->lock);
                }
                break;
            }
        }
    }
    return NULL;
}

static void run_serially(onnxc_task_fn fn, void *arg, int64_t tasks) {
    int64_t task;
    for (task = 0; task < tasks; task++) {
        fn(arg, task, 0);
    }
}

static void wake_sleepers(onnxc_pool *pool, int64_t wanted) {
    int64_t count = atomic_load(&pool->sleepers);
    if (count == 0) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    if (count > wanted) {
        for (; wanted > 0; wanted--) {
            pthread_cond_signal(&pool->wake);
        }
    } else {
        pthread_cond_broadcast(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
}

static bool is_empty(onnxc_pool *pool) {
    return (atomic_load_explicit(&pool->gate, memory_order_acquire) & INSIDE_MASK) == 0;
}

static void wait_until_empty(onnxc_pool *pool) {
    int spin;
    for (spin = 0; spin < SPINS; spin++) {
        if (is_empty(pool)) {
            return;
        }
        relax();
    }
    pthread_mutex_lock(&pool->lock);
    while (!is_empty(pool)) {
        pthread_cond_wait(&pool->done, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

void onnxc_pool_hold(onnxc_pool *pool) {
    atomic_fetch_add_explicit(&pool->holders, 1, memory_order_relaxed);
}

void onnxc_pool_let_go(onnxc_pool *pool) {
    atomic_fetch_sub_explicit(&pool->holders, 1, memory_order_relaxed);
}

void onnxc_pool_parallel_for(void *user, onnxc_task_fn fn, void *arg, int64_t tasks) {
    onnxc_pool *const pool = user;
    if (tasks <= 1 || pool->workers == 1 || atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire)) {
        run_serially(fn, arg, tasks);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    share_out(pool, tasks);
    atomic_fetch_add(&pool->gate, JOB_STEP);
    wake_sleepers(pool, tasks - 1);
    work(pool, 0);
    atomic_fetch_add(&pool->gate, JOB_STEP);
    wait_until_empty(pool);
    atomic_flag_clear_explicit(&pool->busy, memory_order_release);
}

static int processors(void) {
    long count;
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        return CPU_COUNT(&set) < ONNXC_MAX_WORKERS ? CPU_COUNT(&set) : ONNXC_MAX_WORKERS;
    }
#endif
    count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count < ONNXC_MAX_WORKERS ? (int)count : ONNXC_MAX_WORKERS;
}

int onnxc_pool_create(int workers, onnxc_pool **result) {
    onnxc_pool *pool;
    if (result == NULL) {
        return ONNXC_NULL;
    }
    *result = NULL;
    if (workers < 0 || workers > ONNXC_MAX_WORKERS) {
        return ONNXC_WORKERS;
    }
    if (workers == 0) {
        workers = processors();
    }
    pool = onnxc_arena_alloc(sizeof *pool);
    if (pool == NULL) {
        return ONNXC_NO_MEMORY;
    }
    pool->threads = calloc((size_t)workers, sizeof *pool->threads);
    pool->shares = onnxc_arena_alloc((size_t)workers * sizeof *pool->shares);
    if (pool->threads == NULL || pool->shares == NULL) {
        free(pool->threads);
        onnxc_arena_free(pool->shares);
        onnxc_arena_free(pool);
        return ONNXC_NO_MEMORY;
    }
    atomic_init(&pool->gate, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->holders, 0);
    atomic_init(&pool->stop, false);
    atomic_flag_clear(&pool->busy);
    pool->workers = workers;
    pool->started = 1;
    /* With default attributes these fail on no system that has threads. */
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (; pool->started < workers; pool->started++) {
        struct worker *const worker = &pool->threads[pool->started];
        worker->pool = pool;
        worker->number = pool->started;
        if (pthread_create(&worker->thread, NULL, thread_main, worker) != 0) {
            onnxc_pool_destroy(pool);
            return ONNXC_THREADS;
        }
    }
    *result = pool;
    return ONNXC_OK;
}

void onnxc_pool_destroy(onnxc_pool *pool) {
    int index;
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (index = 1; index < pool->started; index++) {
        pthread_join(pool->threads[index].thread, NULL);
    }
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool->threads);
    onnxc_arena_free(pool->shares);
    onnxc_arena_free(pool);
}

int onnxc_pool_workers(const onnxc_pool *pool) {
    return pool->workers;
}
