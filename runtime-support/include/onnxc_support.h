/* onnxc_support.h: the small library over onnxc.h that allocates, starts threads and owns what a model only borrows.
 *
 * A model does not need it. It is C11 over POSIX threads: compile the files of csrc with any compiler of the target
 * and link with -pthread. Functions that return int return 0 or a negative ONNXC_* status. */
#ifndef ONNXC_SUPPORT_H
#define ONNXC_SUPPORT_H

#include "onnxc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The message of a status, also of one that this version does not know. Never NULL. */
const char *onnxc_status_message(int status);

/* ------------------------------------------------------------------------------------------------------- memory */

/* Memory aligned to ONNXC_ALIGN, NULL when there is none; never NULL for 0 bytes. Contents are unspecified. */
void *onnxc_arena_alloc(size_t bytes);
void onnxc_arena_free(void *arena);

/* onnxc_call.alloc and release over the C heap. user is not looked at; align is a power of two up to ONNXC_ALIGN. */
void *onnxc_heap_alloc(void *user, size_t bytes, size_t align);
void onnxc_heap_release(void *user, void *pointer, size_t bytes);

/* Gives back what run allocated for value (ONNXC_VALUE_OWNS_*), items included, and clears those fields. */
void onnxc_value_release(onnxc_value *value, const onnxc_call *call);

/* ------------------------------------------------------------------------------------------------------- weights */

/* The weights of a model that was compiled with `--weights external`. */
typedef struct onnxc_weights {
    const void *data; /* for onnxc_call.weights and weights_bytes; NULL when nothing is open */
    uint64_t bytes;
} onnxc_weights;

/* Maps the file read-only and compares its length and SHA-256 with the model's, which reads all of it once. The file is
 * to stay as it is while it is open: replace it by renaming another to its name. ONNXC_WEIGHTS_FILE: it cannot be opened
 * or mapped; ONNXC_WEIGHTS: it is not this model's, or the model has its weights embedded. */
int onnxc_weights_open(const onnxc_model *model, const char *path, onnxc_weights *weights);
/* No run may be under way. NULL is allowed. */
void onnxc_weights_close(onnxc_weights *weights);
/* The same comparison for memory from elsewhere, such as flash: 0, or ONNXC_WEIGHTS. */
int onnxc_weights_check(const onnxc_model *model, const void *data, uint64_t bytes);

/* ------------------------------------------------------------------------------------------------------- strings */

/* What a model gives to the functions on strings that it calls. */
typedef struct onnxc_strings_call {
    const onnxc_value *const *in;
    onnxc_value *out;
    const onnxc_call *call;
    const void *constants; /* the strings of the model: see strings.c */
    void *strings;         /* three slots of memory for those of the run */
} onnxc_strings_call;

/* How many elements the tensor of a value has, and where they begin. */
static inline uint64_t onnxc_value_count(const onnxc_value *value) {
    uint64_t count = 1;
    int32_t axis;
    for (axis = 0; axis < value->tensor.ndim; axis++) {
        count *= (uint64_t)value->tensor.shape[axis];
    }
    return count;
}

static inline void *onnxc_value_data(const onnxc_value *value) {
    return (char *)value->tensor.data + value->tensor.byte_offset;
}

/* What models that work on strings call; ir/src/strings of the compiler says what each computes. */
int onnxc_strings_enter(const onnxc_strings_call *op);
int onnxc_strings_leave(const onnxc_strings_call *op);
int onnxc_strings_concat(const onnxc_strings_call *op);
int onnxc_strings_count(const onnxc_strings_call *op);
int onnxc_strings_split(const onnxc_strings_call *op);
int onnxc_strings_replace(const onnxc_strings_call *op);
int onnxc_strings_accept(const onnxc_strings_call *op);
int onnxc_strings_order(const onnxc_strings_call *op);
int onnxc_strings_parse_int(const onnxc_strings_call *op);
int onnxc_strings_parse_float(const onnxc_strings_call *op);
int onnxc_strings_format_int(const onnxc_strings_call *op);
int onnxc_strings_format_float(const onnxc_strings_call *op);
/* The text of a string of the run, valid until the next one is kept or prepared; and the number of a copy of a text. */
int onnxc_strings_get(const onnxc_strings_call *op, uint64_t number, const char **text, uint64_t *length);
int onnxc_strings_keep(const onnxc_strings_call *op, const char *text, uint64_t length, uint64_t *number);
/* The same for a text that is made in place: room for length bytes; and the number of what is in the first of them. */
int onnxc_strings_prepare(const onnxc_strings_call *op, uint64_t length, char **text);
uint64_t onnxc_strings_finish(const onnxc_strings_call *op, uint64_t length);

/* ---------------------------------------------------------------------------------------------------------- GPUs */

/* What the driver said about the last failure of a run of a model for GPUs on this thread, or "". */
const char *onnxc_cuda_message(void);

/* ------------------------------------------------------------------------------------------------------- threads */

/* Threads that sleep between jobs. The thread that calls onnxc_pool_parallel_for works too, as worker 0. */
typedef struct onnxc_pool onnxc_pool;

/* workers counts the caller: 1 starts no thread, 0 asks for one worker per processor that the process may use. */
int onnxc_pool_create(int workers, onnxc_pool **pool);
/* No parallel_for may be under way. NULL is allowed. */
void onnxc_pool_destroy(onnxc_pool *pool);
int onnxc_pool_workers(const onnxc_pool *pool);
/* An onnxc_parallel_for_fn whose user is the pool. Tasks are claimed one by one, in order. A call while another is
 * under way, from a task of it or from another thread, runs its tasks on its own thread as worker 0. */
void onnxc_pool_parallel_for(void *pool, onnxc_task_fn fn, void *arg, int64_t tasks);
/* Between hold and let_go the threads wait for jobs without sleeping, for some milliseconds at most. A session holds its
 * pool for the length of each run; who calls a model's run directly does it around that. Holds add up. */
void onnxc_pool_hold(onnxc_pool *pool);
void onnxc_pool_let_go(onnxc_pool *pool);

/* ------------------------------------------------------------------------------------------------------ sessions */

/* A model with an arena, outputs and perhaps threads of its own. One thread at a time may use a session. */
typedef struct onnxc_session onnxc_session;

/* Where a session takes the memory of arena, outputs and sizes that data decides. */
typedef struct onnxc_memory {
    void *user;
    onnxc_alloc_fn alloc;
    onnxc_release_fn release;
} onnxc_memory;

/* threads: 1 runs on the calling thread, more start a pool, 0 takes one per processor. dims: see onnxc_plan_fn. */
int onnxc_session_create(const onnxc_model *model, const int64_t *dims, int threads, onnxc_session **session);
/* The same on a pool that outlives the session and may serve others; NULL runs on the calling thread. */
int onnxc_session_create_on(const onnxc_model *model, const int64_t *dims, onnxc_pool *pool, onnxc_session **session);
/* The same with memory from elsewhere than the C heap; memory is copied, its user outlives the session. */
int onnxc_session_create_in(const onnxc_model *model, const int64_t *dims, onnxc_pool *pool,
                            const onnxc_memory *memory, onnxc_session **session);
void onnxc_session_destroy(onnxc_session *session);
/* Plans again for other values of the symbols; outputs of earlier runs are gone. States stay unless their size changes;
 * the symbol of their growing axis is the greatest extent before a run that is planned for. */
int onnxc_session_set_dims(onnxc_session *session, const int64_t *dims);
/* Input index as an array of input_count values, already of the right dtype and shape: set tensor.data of each (and
 * dims where the port fixes none) before the run. The session does not own input data, but it has states
 * (ONNXC_PORT_STATE) of its own, which it hands from run to run. */
onnxc_value *onnxc_session_inputs(onnxc_session *session);
/* Begins again: growing states are empty, the others zeros, as in a new session. */
void onnxc_session_reset(onnxc_session *session);
/* The outputs of the last successful run, owned by the session and valid until its next run. */
const onnxc_value *onnxc_session_outputs(const onnxc_session *session);
/* The call that runs use: set weights and weights_bytes, or take parallel_for away. arena, user and fault are the session's. */
onnxc_call *onnxc_session_call(onnxc_session *session);
/* Reports steps to trace with this user from now on; NULL stops it. */
void onnxc_session_set_trace(onnxc_session *session, onnxc_trace_fn trace, void *user);
/* Runs on the inputs. Output buffers grow as the model asks. */
int onnxc_session_run(onnxc_session *session);
/* What the last failed run said about its failure. */
const onnxc_fault *onnxc_session_fault(const onnxc_session *session);

#ifdef __cplusplus
}
#endif

#endif
