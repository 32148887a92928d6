/* Reading what a request for text asks for: which member may stand where, and its range. */
#include "generator.h"
#include <string.h>

enum member { ID, TEXT, PARAMETERS, MAX_TOKENS, TEMPERATURE, SEED, STOP, TIMEOUT };

static const struct {
    int depth; /* 1: the body, 2: its parameters */
    tbi_json_event value;
    const char *name;
} members[] = {
    [ID] = {1, TBI_JSON_STRING_VALUE, "id"},
    [TEXT] = {1, TBI_JSON_STRING_VALUE, "text_input"},
    [PARAMETERS] = {1, TBI_JSON_OBJECT, "parameters"},
    [MAX_TOKENS] = {2, TBI_JSON_NUMBER, "max_tokens"},
    [TEMPERATURE] = {2, TBI_JSON_NUMBER, "temperature"},
    [SEED] = {2, TBI_JSON_NUMBER, "seed"},
    [STOP] = {2, TBI_JSON_STRING_VALUE, "stop"},
    [TIMEOUT] = {2, TBI_JSON_NUMBER, "timeout"},
};
enum { N_MEMBERS = sizeof members / sizeof *members };

static bool on_key(tbi_prompt *p, const char *key)
{
    for (int m = 0; m < N_MEMBERS; m++) {
        if (members[m].depth != p->depth || strcmp(members[m].name, key) != 0) continue;
        if (p->seen >> m & 1)
            return tbi_fault_set(p->fault, TBI_FAULT_MALFORMED_JSON, key, "a member occurs twice in one object");
        p->seen |= 1u << m;
        p->member = m;
        return true;
    }
    return tbi_fault_set(p->fault, TBI_FAULT_BAD_REQUEST, NULL,
                         p->depth == 1 ? "a member that this server does not know"
                                       : "a parameter that this server does not know");
}

static bool set_integer(tbi_prompt *p, const char *text, size_t bytes, int64_t min, int64_t *to)
{
    const char *name = members[p->member].name;
    return tbi_json_integer(text, bytes, min, INT64_MAX / 1000, to) ||
           tbi_fault_set(p->fault, TBI_FAULT_NUMBER_RANGE, name, "%s takes a whole number from %d on", name, (int)min);
}

static bool set_temperature(tbi_prompt *p, const char *text, size_t bytes)
{
    float x;
    p->temperature = tbi_text_to_f32(text, bytes, &x) ? (double)x : -1;
    return (p->temperature >= 0 && p->temperature <= 100) ||
           tbi_fault_set(p->fault, TBI_FAULT_NUMBER_RANGE, "temperature", "temperature takes a number from 0 to 100");
}

static bool set_value(tbi_prompt *p, const char *text, size_t bytes)
{
    switch ((enum member)p->member) {
    case ID: memcpy(p->id, text, bytes + 1); return true;
    case TEXT:
        memcpy(p->text, text, bytes);
        p->bytes = (int)bytes;
        return true;
    case STOP: memcpy(p->stop, text, bytes + 1); return true;
    case MAX_TOKENS: return set_integer(p, text, bytes, 1, &p->max_tokens);
    case SEED: return set_integer(p, text, bytes, 0, &p->seed);
    case TIMEOUT: return set_integer(p, text, bytes, 0, &p->timeout_us);
    case TEMPERATURE: return set_temperature(p, text, bytes);
    case PARAMETERS: p->depth = 2; return true;
    }
    return false;
}

static bool on_event(void *arg, tbi_json_event e, const char *text, size_t bytes)
{
    tbi_prompt *p = arg;
    if (e == TBI_JSON_KEY) return on_key(p, text);
    if (e == TBI_JSON_OBJECT_END) {
        p->depth--;
        return true;
    }
    if (p->depth == 0) {
        p->depth = 1;
        return e == TBI_JSON_OBJECT ||
               tbi_fault_set(p->fault, TBI_FAULT_BAD_REQUEST, NULL, "the body must be a JSON object");
    }
    if (e != members[p->member].value)
        return tbi_fault_set(p->fault, TBI_FAULT_BAD_REQUEST, members[p->member].name,
                             "member '%s' is of the wrong JSON type", members[p->member].name);
    return set_value(p, text, bytes);
}

void tbi_prompt_open(tbi_prompt *p, tbi_json *scan, tbi_fault *fault)
{
    p->fault = fault;
    p->id[0] = p->stop[0] = 0;
    p->bytes = p->depth = p->member = 0;
    p->seen = 0;
    p->max_tokens = p->seed = p->timeout_us = 0;
    p->temperature = 0;
    tbi_json_open(scan, fault, on_event, p);
}

bool tbi_prompt_finish(tbi_prompt *p, tbi_json *scan)
{
    if (p->fault->code != TBI_FAULT_NONE || !tbi_json_finish(scan)) return false;
    return p->bytes > 0 || tbi_fault_set(p->fault, TBI_FAULT_BAD_REQUEST, "text_input",
                                         "missing: 'text_input', the text to go on from, of 1 byte at least");
}
