/* The JSON of a request: which member may stand where (one table), and what its value means for the model's inputs. */
#include "infer_internal.h"
#include <string.h>

/* Contexts are letters: R root, P its parameters, I inputs, i one input, S its shape, p its parameters, T a
 * tensor, O outputs, o one output, q its parameters, D root of /v1/predict. */
enum member {
    M_ID,
    M_CHILD,
    M_INPUTS,
    M_OUTPUTS,
    M_NAME,
    M_DTYPE,
    M_SHAPE,
    M_DATA,
    M_TIMEOUT,
    M_BINARY_OUTPUT,
    M_BINARY_SIZE,
    M_BINARY_DATA
};
enum { A_STRING = 's', A_NUMBER = 'n', A_BOOL = 'b', AN_OBJECT = '{', AN_ARRAY = '[' };

static const struct {
    char context;
    char value, child;
    enum member member;
    const char *name;
} members[] = {
    {'R', A_STRING, 0, M_ID, "id"},
    {'R', AN_OBJECT, 'P', M_CHILD, "parameters"},
    {'R', AN_ARRAY, 'I', M_INPUTS, "inputs"},
    {'R', AN_ARRAY, 'O', M_OUTPUTS, "outputs"},
    {'P', A_NUMBER, 0, M_TIMEOUT, "timeout"},
    {'P', A_BOOL, 0, M_BINARY_OUTPUT, "binary_data_output"},
    {'i', A_STRING, 0, M_NAME, "name"},
    {'i', A_STRING, 0, M_DTYPE, "datatype"},
    {'i', AN_ARRAY, 'S', M_SHAPE, "shape"},
    {'i', AN_ARRAY, 'T', M_DATA, "data"},
    {'i', AN_OBJECT, 'p', M_CHILD, "parameters"},
    {'p', A_NUMBER, 0, M_BINARY_SIZE, "binary_data_size"},
    {'o', A_STRING, 0, M_NAME, "name"},
    {'o', AN_OBJECT, 'q', M_CHILD, "parameters"},
    {'q', A_BOOL, 0, M_BINARY_DATA, "binary_data"},
    {'D', AN_ARRAY, 'T', M_DATA, "data"},
};
enum { N_MEMBERS = sizeof members / sizeof *members };

static const tb_serve_tensor *current_tensor(const tbi_infer *q) { return &q->model->inputs[q->current]; }

/* ---- one input ---- */

/* Grows the input's rows: one row first, then by doubling up to the largest batch. */
static bool more_elements(void *arg, tbi_json_tensor *t)
{
    tbi_infer *q = arg;
    const tb_serve_tensor *want = current_tensor(q);
    int64_t most = want->elements * q->model->max_batch, next = t->capacity ? 2 * t->capacity : want->elements;
    if (t->count >= most)
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, q->scan.field,
                             "input '%s': more than the %lld elements of %d rows", want->name, (long long)most,
                             q->model->max_batch);
    if (next > most) next = most;
    tbi_rows *r = &q->in[q->current];
    if (!tbi_rows_reserve(r, (size_t)next * tb_dtype_size(want->dtype))) return tbi_infer_no_memory(q);
    t->data = r->data;
    t->capacity = (int64_t)(r->capacity / tb_dtype_size(want->dtype));
    if (t->capacity > most) t->capacity = most;
    return true;
}

static bool start_data(tbi_infer *q)
{
    if (q->current < 0) return tbi_infer_bad(q, "inputs", "the model has several inputs: put 'name' before 'data'");
    tbi_infer_input *in = &q->input[q->current];
    tb_dtype dtype = current_tensor(q)->dtype;
    in->has_data = true;
    q->tensor = (tbi_json_tensor){.dtype = dtype, .more = more_elements, .more_arg = q};
    q->tensor.data = q->in[q->current].data;
    q->tensor.capacity = (int64_t)(q->in[q->current].capacity / tb_dtype_size(dtype));
    int64_t most = current_tensor(q)->elements * q->model->max_batch;
    if (q->tensor.capacity > most) q->tensor.capacity = most;
    q->scan.field = q->form == TBI_INFER_PREDICT ? "data" : "inputs[].data";
    q->scan.tensor = &q->tensor;
    return true;
}

static void end_data(tbi_infer *q)
{
    tbi_infer_input *in = &q->input[q->current];
    in->count = q->tensor.count;
    in->rank = q->tensor.rank;
    memcpy(in->dims, q->tensor.dims, sizeof in->dims);
}

static bool set_name(tbi_infer *q, const char *name)
{
    for (int i = 0; i < q->model->n_inputs; i++) {
        if (strcmp(q->model->inputs[i].name, name) != 0) continue;
        if (q->input[i].named) return tbi_infer_bad(q, "inputs[].name", "an input is given twice");
        q->current = i;
        q->input[i].named = true;
        return true;
    }
    return tbi_infer_bad(q, "inputs[].name", "the model has no input of this name; GET its metadata for the names");
}

static bool set_dtype(tbi_infer *q, const char *name)
{
    if (q->current < 0) return tbi_infer_bad(q, "inputs", "the model has several inputs: put 'name' before 'datatype'");
    const char *want = tbi_oip_dtype(current_tensor(q)->dtype);
    if (strcmp(name, want) != 0)
        return tbi_fault_set(q->fault, TBI_FAULT_DTYPE_MISMATCH, "inputs[].datatype", "input '%s' takes datatype %s",
                             current_tensor(q)->name, want);
    q->input[q->current].has_dtype = true;
    return true;
}

static bool set_dimension(tbi_infer *q, const char *text, size_t bytes)
{
    const tb_serve_tensor *want = current_tensor(q);
    int64_t d;
    int at = q->shape_rank++;
    if (!tbi_json_integer(text, bytes, 0, INT64_MAX, &d))
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs[].shape",
                             "a shape holds whole numbers from 0 on");
    if (at == 0) {
        if (d < 1 || d > q->model->max_batch) return tbi_infer_batch_refused(q, "inputs[].shape");
        q->input[q->current].rows = d;
    } else if (at > want->rank || d != want->shape[at - 1]) {
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs[].shape",
                             "input '%s': dimension %d is not the model's", want->name, at);
    }
    return true;
}

static bool end_shape(tbi_infer *q)
{
    const tb_serve_tensor *want = current_tensor(q);
    if (q->shape_rank != want->rank + 1)
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs[].shape",
                             "input '%s': the shape must have %d dimensions, the batch first", want->name,
                             want->rank + 1);
    q->input[q->current].has_shape = true;
    return true;
}

static bool end_input(tbi_infer *q)
{
    if (q->current < 0 || !q->input[q->current].named)
        return tbi_infer_bad(q, "inputs[].name", "an input has no 'name'");
    q->order[q->n_inputs++] = q->current;
    return true;
}

/* ---- outputs asked for ---- */

static bool set_output_name(tbi_infer *q, const char *name)
{
    for (int o = 0; o < q->model->n_outputs; o++) {
        if (strcmp(q->model->outputs[o].name, name) != 0) continue;
        for (int k = 0; k < q->n_outputs; k++)
            if (q->out_index[k] == o) return tbi_infer_bad(q, "outputs[].name", "an output is asked for twice");
        q->out_index[q->n_outputs] = o;
        return true;
    }
    return tbi_infer_bad(q, "outputs[].name", "the model has no output of this name; GET its metadata for the names");
}

static bool end_output(tbi_infer *q)
{
    if (q->out_index[q->n_outputs] < 0) return tbi_infer_bad(q, "outputs[].name", "an output has no 'name'");
    q->n_outputs++;
    return true;
}

/* ---- events ---- */

static bool open_child(tbi_infer *q, char context)
{
    q->stack[++q->depth] = context;
    q->seen[q->depth] = 0;
    switch (context) {
    case 'T':
        return start_data(q);
    case 'S':
        q->shape_rank = 0;
        if (q->current < 0)
            return tbi_infer_bad(q, "inputs", "the model has several inputs: put 'name' before 'shape'");
        return true;
    case 'i':
        if (q->n_inputs == q->model->n_inputs) return tbi_infer_bad(q, "inputs", "more inputs than the model has");
        q->current = q->model->n_inputs == 1 ? 0 : -1;
        return true;
    case 'o':
        if (q->n_outputs == q->model->n_outputs) return tbi_infer_bad(q, "outputs", "more outputs than the model has");
        q->out_index[q->n_outputs] = -1;
        q->out_form[q->n_outputs] = TBI_OUT_UNSAID;
        return true;
    default:
        return true;
    }
}

static bool close_child(tbi_infer *q)
{
    char context = q->stack[q->depth--];
    if (context == 'T') end_data(q);
    return context == 'S' ? end_shape(q) : context == 'i' ? end_input(q) : context == 'o' ? end_output(q) : true;
}

static bool on_key(tbi_infer *q, const char *key)
{
    char context = q->stack[q->depth];
    for (int m = 0; m < N_MEMBERS; m++) {
        if (members[m].context != context || strcmp(members[m].name, key) != 0) continue;
        if (q->seen[q->depth] >> m & 1)
            return tbi_fault_set(q->fault, TBI_FAULT_MALFORMED_JSON, key, "a member occurs twice in one object");
        q->seen[q->depth] |= 1u << m;
        q->member = m;
        return true;
    }
    return tbi_infer_bad(q, NULL,
                         context == 'P' || context == 'p' || context == 'q'
                             ? "a parameter that this server does not know"
                             : "a member that the protocol does not know");
}

static bool set_number(tbi_infer *q, enum member m, const char *text, size_t bytes)
{
    int64_t *to = m == M_TIMEOUT ? &q->timeout_us : q->current < 0 ? NULL : &q->input[q->current].binary_bytes;
    if (!to) return tbi_infer_bad(q, "inputs", "the model has several inputs: put 'name' before 'parameters'");
    return tbi_json_integer(text, bytes, 0, INT64_MAX / 1000, to) ||
           tbi_fault_set(q->fault, TBI_FAULT_NUMBER_RANGE, members[q->member].name, "%s takes a whole number from 0 on",
                         members[q->member].name);
}

static bool set_value(tbi_infer *q, tbi_json_event e, const char *text, size_t bytes)
{
    switch (members[q->member].member) {
    case M_ID:
        memcpy(q->id, text, bytes + 1);
        return true;
    case M_NAME:
        return q->stack[q->depth] == 'i' ? set_name(q, text) : set_output_name(q, text);
    case M_DTYPE:
        return set_dtype(q, text);
    case M_BINARY_OUTPUT:
        q->binary_output = e == TBI_JSON_TRUE;
        return true;
    case M_BINARY_DATA:
        q->out_form[q->n_outputs] = e == TBI_JSON_TRUE ? TBI_OUT_BINARY : TBI_OUT_JSON;
        return true;
    default:
        return set_number(q, members[q->member].member, text, bytes);
    }
}

static char kind_of(tbi_json_event e)
{
    return e == TBI_JSON_OBJECT                        ? AN_OBJECT
           : e == TBI_JSON_ARRAY                       ? AN_ARRAY
           : e == TBI_JSON_STRING_VALUE                ? A_STRING
           : e == TBI_JSON_NUMBER                      ? A_NUMBER
           : e == TBI_JSON_TRUE || e == TBI_JSON_FALSE ? A_BOOL
                                                       : 0;
}

bool tbi_infer_event(void *arg, tbi_json_event e, const char *text, size_t bytes)
{
    tbi_infer *q = arg;
    char context = q->stack[q->depth], kind = kind_of(e);
    if (e == TBI_JSON_KEY) return on_key(q, text);
    if (e == TBI_JSON_OBJECT_END || e == TBI_JSON_ARRAY_END) return close_child(q);
    if (q->depth == 0) {
        if (kind != AN_OBJECT) return tbi_infer_bad(q, NULL, "the body must be a JSON object");
        return open_child(q, q->form == TBI_INFER_PREDICT ? 'D' : 'R');
    }
    if (context == 'S') {
        if (kind != A_NUMBER)
            return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs[].shape",
                                 "a shape holds whole numbers from 0 on");
        return set_dimension(q, text, bytes);
    }
    if (context == 'I' || context == 'O') {
        if (kind != AN_OBJECT)
            return tbi_infer_bad(q, context == 'I' ? "inputs" : "outputs", "inputs and outputs are arrays of objects");
        return open_child(q, context == 'I' ? 'i' : 'o');
    }
    if (kind != members[q->member].value)
        return tbi_fault_set(q->fault,
                             members[q->member].member == M_DATA ? TBI_FAULT_DTYPE_MISMATCH : TBI_FAULT_BAD_REQUEST,
                             members[q->member].name, "member '%s' is of the wrong JSON type", members[q->member].name);
    if (members[q->member].child) return open_child(q, members[q->member].child);
    return set_value(q, e, text, bytes);
}
